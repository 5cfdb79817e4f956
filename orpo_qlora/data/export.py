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
from dataclasses import asdict
from pathlib import Path

from orpo_qlora import storage
from orpo_qlora.data.columns import GUARD_COLUMN
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
    has_turns = any(pair.earlier for pair in pairs)
    if path.suffix.casefold() == ".csv":
        lines = _csv_lines(pairs, has_turns=has_turns)
    elif path.suffix.casefold() == ".jsonl":
        lines = (
            json.dumps(_record(pair, has_turns=has_turns), ensure_ascii=False) + "\n"
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


def _record(pair: PreferencePair, *, has_turns: bool) -> dict[str, object]:
    if not has_turns:
        return {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
    return {
        "prompt": [asdict(turn) for turn in pair.conversation],
        "chosen": [{"role": "assistant", "content": pair.chosen}],
        "rejected": [{"role": "assistant", "content": pair.rejected}],
    }


def _csv_lines(pairs: Sequence[PreferencePair], *, has_turns: bool) -> Iterator[str]:
    memory = io.StringIO()
    writer = csv.writer(memory, quoting=csv.QUOTE_ALL, strict=True)
    # Without the byte order mark Excel assumes the legacy encoding of the locale.
    memory.write("\ufeff")
    writer.writerow([*COLUMNS, GUARD_COLUMN])
    for pair in pairs:
        record = _record(pair, has_turns=has_turns)
        cells = [
            json.dumps(record[name], ensure_ascii=False) if has_turns else str(record[name])
            for name in COLUMNS
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
