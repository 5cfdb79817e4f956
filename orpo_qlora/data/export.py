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
from dataclasses import dataclass
from pathlib import Path

from orpo_qlora import storage
from orpo_qlora.data.columns import GUARD_COLUMN
from orpo_qlora.data.messages import NO_TOOLS
from orpo_qlora.data.pairs import PreferencePair
from orpo_qlora.data.shapes.base import SIDES
from orpo_qlora.data.summary import DataSummary
from orpo_qlora.errors import InputError

COLUMNS = ("prompt", "chosen", "rejected")
LABELLED_COLUMNS = ("prompt", "completion", "label")
# OWASP's list. A text that already has apostrophes before such a sign gets one more, so that
# removing exactly one is always right.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def write_clean(path: Path, pairs: Sequence[PreferencePair]) -> None:
    """Write pairs as CSV or as JSON lines, by file extension; reading them back is lossless.

    Pairs with earlier turns are written as lists of messages, TRL's conversational format. If there
    are single responses, every response is written on its own, with its label.

    Raises:
        InputError: the extension is another, a text cannot be stored in a CSV, or the folder is not
            writable.
        DiskFull: a file that was there before is kept.
    """
    has_turns = any(pair.earlier or pair.tool_use != NO_TOOLS for pair in pairs)
    has_tools = any(pair.tool_use.tools for pair in pairs)
    layout = _Layout(has_turns, has_tools, is_labelled=any(pair.single for pair in pairs))
    if path.suffix.casefold() == ".csv":
        lines = _csv_lines(pairs, layout)
    elif path.suffix.casefold() == ".jsonl":
        lines = (
            json.dumps(record, ensure_ascii=False) + "\n"
            for pair in pairs
            for record in layout.records(pair)
        )
    else:
        raise InputError(
            f"{path.name} is neither .csv nor .jsonl.", hint="End the name with one of them."
        )
    with storage.write_errors(path):
        storage.write_whole(path, lines)


def write_report(path: Path, report: DataSummary) -> None:
    """Write the data summary as JSON, or as a page of text if the name ends in .md.

    Raises:
        InputError: the folder is not there or not writable.
        DiskFull: a file that was there before is kept.
    """
    is_page = path.suffix.casefold() == ".md"
    text = report.to_markdown() if is_page else report.model_dump_json(indent=1) + "\n"
    with storage.write_errors(path):
        storage.write_whole(path, text)


@dataclass(frozen=True)
class _Layout:
    """The columns of an exported file."""

    has_turns: bool
    has_tools: bool
    is_labelled: bool

    @property
    def columns(self) -> tuple[str, ...]:
        """Names, in their order."""
        columns = LABELLED_COLUMNS if self.is_labelled else COLUMNS
        return (*columns, "tools") if self.has_tools else columns

    def records(self, pair: PreferencePair) -> Iterator[dict[str, object]]:
        """Yield the row of a pair, or that of each of its responses."""
        prompt = [turn.record() for turn in pair.conversation] if self.has_turns else pair.prompt
        tools = {"tools": json.loads(pair.tool_use.tools or "[]")} if self.has_tools else {}
        sides = dict(zip(SIDES, pair.responses, strict=True))
        cells: dict[str, object] = {
            side: [response.record()] if self.has_turns else response.content
            for side, response in sides.items()
            if pair.has(side)
        }
        if not self.is_labelled:
            yield {"prompt": prompt, **cells, **tools}
            return
        for side, cell in cells.items():
            yield {"prompt": prompt, "completion": cell, "label": side == "chosen", **tools}


def _csv_lines(pairs: Sequence[PreferencePair], layout: _Layout) -> Iterator[str]:
    memory = io.StringIO()
    writer = csv.writer(memory, quoting=csv.QUOTE_ALL, strict=True)
    # Without the byte order mark Excel assumes the legacy encoding of the locale.
    memory.write("\ufeff")
    writer.writerow([*layout.columns, GUARD_COLUMN])
    rows = ((pair.row, record) for pair in pairs for record in layout.records(pair))
    for row, record in rows:
        cells = [
            json.dumps(cell, ensure_ascii=False) if layout.has_turns else str(cell)
            for cell in record.values()
        ]
        if any("\0" in cell for cell in cells):
            raise InputError(
                f"Row {row:,} holds a NUL character, which no CSV can.",
                hint="Export JSON lines, or turn the fix “hidden-characters” on.",
            )
        guarded = [f"'{cell}" if _FORMULA.match(cell) else cell for cell in cells]
        writer.writerow([*guarded, "yes" if guarded != cells else ""])
        yield memory.getvalue()
        memory.seek(0)
        memory.truncate()
    yield memory.getvalue()
