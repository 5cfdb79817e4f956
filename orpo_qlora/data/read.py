"""A file of separated values becomes a table of exact texts. Floor 1; no torch, no pandas.

Cells are never interpreted: `NA`, `007` and `true` stay what they are. A file that cannot be read
exactly is refused with the place and the remedy; nothing is shifted, guessed or repaired.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from orpo_qlora.data.wording import brief, plural
from orpo_qlora.errors import DataError

FILE_BYTES = 200_000_000
"""Largest file accepted; the whole file is held in memory."""
CELL_CHARACTERS = 4_000_000
"""Longest cell accepted. Python's own limit of 131,072 is shorter than a long document."""
PROBLEMS_SHOWN = 5
"""Problems of one file written out in the message; the rest are counted."""

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
_SEPARATOR_LINE = re.compile(rb"(?:\xef\xbb\xbf)?sep=([,;\t])[ ,;\t]*(?:\r\n|\r|\n)", re.IGNORECASE)

_SAVE_AS_UTF8 = (
    "Save it again as UTF-8: “CSV UTF-8” in Excel's Save As, "
    "character set “Unicode (UTF-8)” in LibreOffice."
)
_UNPACK = "Unpack it and choose the CSV file inside."
_EXPORT = "Open it in its own program and export it as CSV (UTF-8)."
_JSON = re.compile(rb'\s*(?:\{\s*["}]|\[\s*[\[{])')
_MARKUP = re.compile(rb"\s*<(?:!doctype|html|head|body|\?xml)\b", re.IGNORECASE)
# First bytes, what such a file is, the way out. UTF-32's mark begins with UTF-16's.
_SIGNATURES = (
    (b"\xff\xfe\x00\x00", "UTF-32 text", _SAVE_AS_UTF8),
    (b"\xff\xfe", "UTF-16 text (“Unicode text” in Excel)", _SAVE_AS_UTF8),
    (b"\xfe\xff", "UTF-16 text (“Unicode text” in Excel)", _SAVE_AS_UTF8),
    (b"\x1f\x8b", "a gzip archive", _UNPACK),
    (b"BZh91AY&SY", "a bzip2 archive", _UNPACK),
    (b"\xfd7zXZ\x00", "an xz archive", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", _UNPACK),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel workbook (xls)", _EXPORT),
    (b"PAR1", "a Parquet file", "Export it as CSV, for example with pandas' to_csv(index=False)."),
    (b"%PDF-", "a PDF document", _EXPORT),
)
# Names of members, which a zip archive keeps uncompressed.
_ZIPPED = (
    (b"xl/workbook", "an Excel workbook", _EXPORT),
    (b"opendocument.spreadsheet", "a LibreOffice workbook", _EXPORT),
    (b"word/document", "a Word document", _EXPORT),
    (b"", "a zip archive", _UNPACK),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One record of the file; `cells` are as many as the table has columns."""

    cells: tuple[str, ...]
    number: int
    """The first row under the header is 1; blank lines are not counted."""
    line: int
    """Line of the file on which the row begins; it runs ahead when cells hold line breaks."""

    @property
    def place(self) -> str:
        """The row in words, for a message."""
        name = f"row {self.number:,}" if self.number else "the header"
        return f"{name} (line {self.line:,})"


@dataclass(frozen=True)
class Table:
    """The texts of a file, exactly; at least one row, each as wide as `columns`."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    source: str
    """File name as the person gave it."""
    sha256: str


@dataclass(frozen=True)
class _Layout:
    separator: str
    lines_skipped: int


class _Problems:
    """Everything wrong with the rows of one file, so that one look at it is enough to mend it."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._shown: list[str] = []
        self._count = 0
        self._where = ""
        self._hint = ""

    def add(self, row: Row, fact: str, hint: str) -> None:
        if not self._count:
            self._where, self._hint = f"{self._source}, {row.place}", hint
        if self._count < PROBLEMS_SHOWN:
            self._shown.append(f"{row.place} {fact}")
        self._count += 1

    def refuse_any(self) -> None:
        if not self._count:
            return
        rest = self._count - len(self._shown)
        more = f"; and {plural(rest, 'row')} more" if rest else ""
        message = f"{self._source}: {'; '.join(self._shown)}{more}."
        raise DataError(message, hint=self._hint, where=self._where)


def read_table(path: Path, source: str = "") -> Table:
    """Read a CSV file, or one separated by semicolons or tabs, as exact text.

    Args:
        path: the file.
        source: the name the person knows the file by; the path's own name if empty.

    Raises:
        DataError: the file is missing, of another kind, not UTF-8, not well-formed or without
            rows; names every row whose width is wrong.
    """
    name = source or path.name
    data = _read_bytes(path, name)
    _refuse_foreign(data, name)
    _refuse_undecodable(data, name)
    # The limit belongs to the process, so another library may have changed it since.
    csv.field_size_limit(CELL_CHARACTERS)
    layout = _find_layout(data)
    problems = _Problems(name)
    records = _read_records(data, layout, problems)
    header = next(records, None)
    problems.refuse_any()
    if header is None or not data.strip():
        raise DataError(f"{name} is empty.", where=name, hint="Choose a file that has rows.")
    _refuse_duplicates(header.cells, name)
    rows = tuple(_checked_rows(records, header.cells, layout, problems))
    problems.refuse_any()
    if not rows:
        raise DataError(
            f"{name} has a header but no rows.",
            where=name,
            hint="Add one row per preference under the header.",
        )
    return Table(header.cells, rows, name, hashlib.sha256(data).hexdigest())


def _read_bytes(path: Path, name: str) -> bytes:
    try:
        # A device or a pipe has no size and might never end.
        if path.exists() and not path.is_file():
            raise DataError(f"{name} is not a file.", where=name, hint="Choose a CSV file.")
        size = path.stat().st_size
        if size > FILE_BYTES:
            raise DataError(
                f"{name} has {size:,} bytes; at most {FILE_BYTES:,} can be read.",
                where=name,
                hint="Split it, or keep a random part of its rows.",
            )
        return path.read_bytes()
    except OSError as exc:
        reason = exc.strerror or type(exc).__name__
        raise DataError(
            f"{name} cannot be opened ({reason}).",
            where=name,
            hint="Check the name and that you may read the file.",
        ) from exc


def _refuse_foreign(data: bytes, name: str) -> None:
    kind, hint = _foreign_kind(data)
    if kind:
        raise DataError(f"{name} is {kind}, not a CSV file in UTF-8.", where=name, hint=hint)


def _foreign_kind(data: bytes) -> tuple[str, str]:
    """Return what else the file is and the way out; empty texts if it may be what we read."""
    for signature, kind, hint in _SIGNATURES:
        if data.startswith(signature):
            return kind, hint
    if data.startswith(b"PK\x03\x04"):
        return next((kind, hint) for member, kind, hint in _ZIPPED if member in data)
    head = data[:1000].removeprefix(b"\xef\xbb\xbf")
    if _JSON.match(head):
        return "JSON", "Export it as CSV with the columns prompt, chosen and rejected."
    if _MARKUP.match(head):
        return "a web page", "It may be a login or error page: download the data itself."
    if head.count(0) * 3 > len(head):
        return "text that looks like UTF-16 without its mark", _SAVE_AS_UTF8
    return "", ""


def _refuse_undecodable(data: bytes, name: str) -> None:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as exc:
        line, byte = _line_of(data, exc.start), data[exc.start]
        raise DataError(
            f"{name} is not UTF-8: line {line:,}, byte offset {exc.start:,} (0x{byte:02X}).",
            where=f"{name}, line {line}",
            hint=_SAVE_AS_UTF8,
        ) from exc
    offset = data.find(0)
    if offset >= 0:
        line = _line_of(data, offset)
        raise DataError(
            f"{name} holds a NUL byte on line {line:,} (byte offset {offset:,}).",
            where=f"{name}, line {line}",
            hint="The file is damaged or not text: export it again as CSV (UTF-8).",
        )


def _line_of(data: bytes, offset: int) -> int:
    ends = data.count(b"\n", 0, offset) + data.count(b"\r", 0, offset)
    return ends - data.count(b"\r\n", 0, offset) + 1


def _lines(data: bytes) -> Iterator[str]:
    # Unlike str.splitlines this breaks at CR and LF only, not at U+2028 or U+0085, and it needs no
    # second copy of the file as one text.
    return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline="")


def _find_layout(data: bytes) -> _Layout:
    """Take the separator that cuts the header into the most names; the comma wins a tie."""
    declared = _SEPARATOR_LINE.match(data)
    if declared:
        return _Layout(declared[1].decode(), lines_skipped=1)
    return _Layout(max(SEPARATORS, key=lambda separator: _header_width(data, separator)), 0)


def _header_width(data: bytes, separator: str) -> int:
    try:
        records = csv.reader(_lines(data), delimiter=separator, strict=True)
        return len(next((cells for cells in records if not _is_blank(cells)), ()))
    except csv.Error:
        return 0


def _is_blank(cells: list[str]) -> bool:
    return not any(cell.strip() for cell in cells) and len(cells) < 2


def _read_records(data: bytes, layout: _Layout, problems: _Problems) -> Iterator[Row]:
    """Yield the header as row 0, then the rows; a syntax error ends the file as a problem."""
    lines = islice(_lines(data), layout.lines_skipped, None)
    reader = csv.reader(lines, delimiter=layout.separator, strict=True)
    number = 0
    while True:
        start = layout.lines_skipped + reader.line_num
        try:
            cells = next(reader, None)
        except csv.Error:
            end = layout.lines_skipped + reader.line_num
            record = list(islice(_lines(data), start, end))
            fact, hint = _explain_quotes(record, start + 1, layout.separator)
            problems.add(Row((), number, start + 1), fact, hint)
            return
        if cells is None:
            return
        if not _is_blank(cells):
            yield Row(tuple(cells), number, start + 1)
            number += 1


def _explain_quotes(record: list[str], first_line: int, separator: str) -> tuple[str, str]:
    """Say what is wrong with a record that `csv` refused, and the way out."""
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


def _refuse_duplicates(columns: tuple[str, ...], name: str) -> None:
    # Trailing separators make several columns without a name; those cannot be asked for.
    counts = Counter(column for column in columns if column.strip())
    twice = [brief(column) for column, count in counts.items() if count > 1]
    if twice:
        raise DataError(
            f"{name}: the header names {', '.join(twice[:PROBLEMS_SHOWN])} more than once.",
            where=f"{name}, header",
            hint="Give every column a name of its own.",
        )


def _checked_rows(
    records: Iterator[Row], columns: tuple[str, ...], layout: _Layout, problems: _Problems
) -> Iterator[Row]:
    for row in records:
        if len(row.cells) == len(columns):
            yield row
            continue
        found = plural(len(row.cells), "cell")
        hint = f"A cell that holds a {SEPARATORS[layout.separator]} or a line break must be quoted."
        if any("\\" in cell for cell in row.cells):
            hint += ' A " inside a quoted cell is written twice (""), not as \\".'
        fact = f"has {found} where the header has {len(columns)}"
        problems.add(row, fact, hint)
