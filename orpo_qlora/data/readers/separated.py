"""Comma, semicolon or tab separated values: lines to rows of exact text. Floor 1; no torch.

By hand around `csv`: pandas, pyarrow and `datasets` change cells (`NA`, `007`) and lose the place
of a fault. A row that cannot be read exactly is a broken row with its place and the way out.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from orpo_qlora.data.readers.ahead import Ahead
from orpo_qlora.data.readers.rows import PROBLEMS_SHOWN, Row
from orpo_qlora.data.readers.source import Source
from orpo_qlora.data.wording import brief, plural
from orpo_qlora.errors import DataError

CELL_CHARACTERS = 4_000_000
"""Longest cell accepted. Python's own limit of 131,072 is shorter than a long document."""
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
FORMATS = {",": "CSV", ";": "CSV, semicolon", "\t": "TSV"}
_SEPARATOR_LINE = re.compile(r"sep=([,;\t])[ ,;\t]*(?:\r\n|\r|\n)", re.IGNORECASE)


@dataclass(frozen=True)
class Layout:
    """How values are separated, and how many lines precede the header."""

    separator: str
    lines_skipped: int

    @property
    def format(self) -> str:
        """The layout in words, for the data summary."""
        return FORMATS[self.separator]


def find_layout(lines: Ahead[str]) -> Layout:
    """Return the separator that gives the header the most names; the comma wins a tie."""
    # The limit belongs to the process, so another library may have changed it since.
    csv.field_size_limit(CELL_CHARACTERS)
    declared = _SEPARATOR_LINE.match(next(lines.look(), ""))
    if declared:
        return Layout(declared[1], lines_skipped=1)
    return Layout(max(SEPARATORS, key=lambda separator: _header_width(lines.look(), separator)), 0)


def _header_width(lines: Iterator[str], separator: str) -> int:
    try:
        records = csv.reader(lines, delimiter=separator, strict=True)
        return len(next((cells for cells in records if not _is_blank(cells)), ()))
    except csv.Error:
        return 0


def _is_blank(cells: list[str]) -> bool:
    return not any(cell.strip() for cell in cells) and len(cells) < 2


def read_records(
    source: Source, lines: Iterator[str], layout: Layout, *, has_header: bool
) -> Iterator[Row]:
    """Yield the header as row 0 where there is one, then the rows.

    A syntax error ends the file as a broken row; of a row of another width than the first record
    the cells are kept.
    """
    reader = csv.reader(
        islice(lines, layout.lines_skipped, None), delimiter=layout.separator, strict=True
    )
    number = 0 if has_header else 1
    width = 0
    while True:
        start = layout.lines_skipped + reader.line_num
        try:
            cells = next(reader, None)
        except csv.Error:
            end = layout.lines_skipped + reader.line_num
            record = list(islice(source.lines(), start, end))
            fault, hint = _explain_quotes(record, start + 1, layout.separator)
            yield Row((), number, start + 1, fault, hint, is_end=True)
            return
        if cells is None:
            return
        if _is_blank(cells):
            continue
        width = width or len(cells)
        if len(cells) == width:
            yield Row(tuple(cells), number, start + 1)
        else:
            yield _of_other_width(cells, width, Row(tuple(cells), number, start + 1), layout)
        number += 1


def _of_other_width(cells: list[str], width: int, row: Row, layout: Layout) -> Row:
    hint = f"A cell that holds a {SEPARATORS[layout.separator]} or a line break must be quoted."
    if any("\\" in cell for cell in cells):
        hint += ' A " inside a quoted cell is written twice (""), not as \\".'
    fault = f"has {plural(len(cells), 'cell')} where the header has {width}"
    return Row(row.cells, row.number, row.line, fault, hint)


def check_header(columns: tuple[str, ...], name: str, *, has_header: bool = True) -> None:
    """Check that column names are unique.

    Raises:
        DataError: two columns have the same name.
    """
    # Trailing separators make several columns without a name; those are never used.
    counts = Counter(column for column in columns if column.strip())
    twice = [brief(column) for column, count in counts.items() if count > 1]
    if twice:
        raise DataError(
            f"{name}{': the header' if has_header else ''} names "
            f"{', '.join(twice[:PROBLEMS_SHOWN])} more than once.",
            where=f"{name}, header" if has_header else name,
            hint="Give every column a name of its own.",
        )


def _explain_quotes(record: list[str], first_line: int, separator: str) -> tuple[str, str]:
    """Return what is wrong with a record that `csv` refused, and a hint."""
    opened, closed = _last_quoted_cell(record, separator)
    hint = 'Close the cell with ", and write every " inside a quoted cell twice ("").'
    if any('\\"' in line for line in record):
        hint = 'This file writes \\" inside cells: replace it by "" (two quotes) everywhere.'
    if opened is None:
        hint = f"Cells of up to {CELL_CHARACTERS:,} characters can be read: shorten it."
        return "has a cell that is too long", hint
    fact = f"has a quoted cell that opens on line {first_line + opened:,}"
    if closed is None:
        return f"{fact} and does not close", hint
    follows = f"a {SEPARATORS[separator]} or the end of the line"
    return f'{fact}, and the " on line {first_line + closed:,} is not followed by {follows}', hint


def _last_quoted_cell(record: list[str], separator: str) -> tuple[int | None, int | None]:
    """Replay a refused record up to the fault: the lines on which its quoted cell opens and closes.

    The first is None if the fault is in no quoted cell, the second if that cell does not close.
    """
    opened, closed, state = 0, 0, "start"
    for index, line in enumerate(record):
        for character in line:
            if state == "quoted":
                closed, state = (index, "closed") if character == '"' else (closed, state)
            elif character == '"' and state == "start":
                opened, state = index, "quoted"
            elif character == '"' and state == "closed":
                state = "quoted"
            elif state == "closed" and character not in (separator, "\r", "\n"):
                return opened, closed
            else:
                state = "start" if character == separator else "plain"
    return (opened if state == "quoted" else None), None
