"""Export of the usable pairs and the data summary. Floor 1; no torch.

JSON lines are exact. In a CSV, a cell that a spreadsheet would run as a formula is prefixed with an
apostrophe, which the reader of this program removes again.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from orpo_qlora import storage
from orpo_qlora.data.columns import GUARD_COLUMN
from orpo_qlora.data.messages import NO_TOOLS
from orpo_qlora.data.pairs import PreferencePair
from orpo_qlora.data.summary import DataSummary
from orpo_qlora.errors import InputError

COLUMNS = ("prompt", "chosen", "rejected")
# OWASP's list. A text that already has apostrophes before such a sign gets one more, so that
# removing exactly one is always right.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def write_clean(path: Path, pairs: Sequence[PreferencePair]) -> None:
    """Write pairs as CSV or as JSON lines, by file extension; reading them back is lossless.

    Pairs with earlier turns are written as lists of messages, TRL's conversational format.

    Raises:
        InputError: the extension is another, a text cannot be stored in a CSV, or the folder is not
            writable.
        DiskFull: a file that was there before is kept.
    """
    has_turns = any(pair.earlier or pair.tool_use != NO_TOOLS for pair in pairs)
    has_tools = any(pair.tool_use.tools for pair in pairs)
    if path.suffix.casefold() == ".csv":
        lines = _csv_lines(pairs, has_turns=has_turns, has_tools=has_tools)
    elif path.suffix.casefold() == ".jsonl":
        lines = (
            json.dumps(_record(pair, has_turns=has_turns, has_tools=has_tools), ensure_ascii=False)
            + "\n"
            for pair in pairs
        )
    else:
        raise InputError(
            f"{path.name} is neither .csv nor .jsonl.", hint="End the name with one of them."
        )
    with _errors_named(path):
        storage.write_whole(path, lines)


def write_report(path: Path, report: DataSummary) -> None:
    """Write the data summary as JSON, or as a page of text if the name ends in .md.

    Raises:
        InputError: the folder is not there or not writable.
        DiskFull: a file that was there before is kept.
    """
    is_page = path.suffix.casefold() == ".md"
    text = report.to_markdown() if is_page else report.model_dump_json(indent=1) + "\n"
    with _errors_named(path):
        storage.write_whole(path, text)


@contextmanager
def _errors_named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise InputError(
            f"{path} cannot be written ({exc.strerror}).", hint="Choose a folder you may write to."
        ) from exc


def _record(pair: PreferencePair, *, has_turns: bool, has_tools: bool) -> dict[str, object]:
    if not has_turns:
        return {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
    chosen, rejected = pair.responses
    tools = {"tools": json.loads(pair.tool_use.tools or "[]")} if has_tools else {}
    return {
        "prompt": [turn.record() for turn in pair.conversation],
        "chosen": [chosen.record()],
        "rejected": [rejected.record()],
        **tools,
    }


def _csv_lines(
    pairs: Sequence[PreferencePair], *, has_turns: bool, has_tools: bool
) -> Iterator[str]:
    memory = io.StringIO()
    writer = csv.writer(memory, quoting=csv.QUOTE_ALL, strict=True)
    # Without the byte order mark Excel assumes the legacy encoding of the locale.
    memory.write("\ufeff")
    columns = (*COLUMNS, "tools") if has_tools else COLUMNS
    writer.writerow([*columns, GUARD_COLUMN])
    for pair in pairs:
        record = _record(pair, has_turns=has_turns, has_tools=has_tools)
        cells = [
            json.dumps(record[name], ensure_ascii=False) if has_turns else str(record[name])
            for name in columns
        ]
        if any("\0" in cell for cell in cells):
            raise InputError(
                f"Row {pair.row:,} holds a NUL character, which no CSV can.",
                hint="Export JSON lines, or turn the fix “hidden-characters” on.",
            )
        guarded = [f"'{cell}" if _FORMULA.match(cell) else cell for cell in cells]
        writer.writerow([*guarded, "yes" if guarded != cells else ""])
        yield memory.getvalue()
        memory.seek(0)
        memory.truncate()
    yield memory.getvalue()
