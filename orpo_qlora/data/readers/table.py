"""A file as a table of exact cells, read row by row; the format is detected by content. Floor 1.

No torch, no pandas. A file that cannot be read exactly is refused with the place and the way out;
nothing is shifted, guessed or repaired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

from orpo_qlora.data.files.choices import ReadChoices
from orpo_qlora.data.readers import columnar, json_records, separated, wrapped
from orpo_qlora.data.readers.ahead import Ahead
from orpo_qlora.data.readers.arrow import ArrowFile, SavedFolder, is_saved, open_saved
from orpo_qlora.data.readers.nested import unfolding_of
from orpo_qlora.data.readers.parquet import Parquet
from orpo_qlora.data.readers.rows import Problems, Row
from orpo_qlora.data.readers.source import Progress, Source, open_source
from orpo_qlora.data.wording import brief
from orpo_qlora.errors import BrokenRows, DataError

HEAD_CHARACTERS = 4096


@dataclass(frozen=True)
class Table:
    """The exact cells of a file: `head` looks at the first rows of the pass that `rows` takes."""

    columns: tuple[str, ...]
    source: str
    """File name as shown to the user."""
    sha256: str
    format: str
    """What the file is, in words."""
    encoding: str
    has_header: bool
    """Whether the first line of the file names the columns; only in separated values."""
    _read: Ahead[Row]
    _keeps_broken: bool

    def rows(self) -> Iterator[Row]:
        """Yield the rows in file order; broken ones only if dropping them was chosen.

        A second call reads the file again.

        Raises:
            BrokenRows: some rows cannot be read; raised after the last row and listing them.
            DataError: nothing can be read after some place, or there are no rows.
        """
        problems = Problems(self.source)
        count = 0
        try:
            for row in self._read.take():
                count += 1
                if row.fault and not (self._keeps_broken and not row.is_end):
                    problems.add(row)
                else:
                    yield row
        except (OSError, UnicodeDecodeError) as exc:
            # It was scanned from end to end before: it is being written to, or the disk fails.
            raise DataError(
                f"{self.source} changed or became unreadable after row {count:,}.",
                where=self.source,
                hint="Start again once nothing writes to the file.",
            ) from exc
        problems.refuse_any()
        if not count:
            about = "a header but no rows" if self.has_header else "no rows"
            place = " under the header" if self.has_header else ""
            raise DataError(
                f"{self.source} has {about}.",
                where=self.source,
                hint=f"Add one row per preference{place}.",
            )

    def head(self, count: int) -> list[Row]:
        """Return the first unbroken rows without reading further."""
        return list(islice((row for row in self._read.look() if not row.fault), count))


def open_table(
    path: Path,
    source: str = "",
    choices: ReadChoices | None = None,
    progress: Progress | None = None,
    *,
    is_whole: bool = True,
) -> Table:
    """Scan a file from end to end and find its columns.

    Args:
        path: the file.
        source: the file name shown to the user; the path's own name if empty.
        choices: how to read it.
        progress: called with the share done, here and later while rows are read.
        is_whole: False scans only the beginning, without a hash: fast for any size.

    Raises:
        NeedsEncoding: it is text, but not Unicode, and no encoding was chosen.
        BrokenRows: some lines are damaged, and dropping them was not chosen.
        DataError: it is missing, of another kind, or has no columns.
    """
    choices = choices or ReadChoices()
    if is_saved(path):
        return _open_saved(
            open_saved(path, source or path.name, choices, progress, is_whole=is_whole), choices
        )
    opened = open_source(path, source or path.name, choices, progress, is_whole=is_whole)
    if opened.binary:
        file = (Parquet if opened.binary == "Parquet" else ArrowFile)(opened)
        columns = file.columns()
        separated.check_header(columns, opened.name, has_header=False)
        return _table(opened, columns, opened.binary, file.rows, choices)
    head = _head_of(opened)
    if not head.strip().strip("\ufeff"):
        raise DataError(
            f"{opened.name} is empty.", where=opened.name, hint="Choose a file that has rows."
        )
    kind = json_records.json_format(head)
    if not kind:
        json_records.refuse_other_array(head, opened.name)
        return _open_separated(opened, choices)
    is_object = kind == "JSON lines"
    records = columnar.read_columns(opened) if is_object else None
    if records is not None:
        read = partial(columnar.rows_of, records)
        return _open_json(opened, "JSON object of columns", read, choices)
    key = wrapped.find_list(opened, is_whole=is_whole) if is_object else None
    if key is None:
        return _open_json(opened, kind, partial(json_records.read_objects, opened, kind), choices)
    kind = f"JSON object, list {brief(key)}"
    return _open_json(opened, kind, partial(wrapped.read_list, opened, key), choices)


def _table(
    opened: Source,
    columns: tuple[str, ...],
    kind: str,
    read: Callable[[], Iterator[Row]],
    choices: ReadChoices,
) -> Table:
    has_header = kind in separated.FORMATS.values()
    noun, place = ("column", ", header") if has_header else ("key", "")
    try:
        "".join(columns).encode()
    except UnicodeEncodeError as exc:
        raise DataError(
            f"{opened.name} has a {noun} whose name is damaged.",
            where=f"{opened.name}{place}",
            hint=f"Rename the {noun}s and save the file as UTF-8.",
        ) from exc
    keeps_broken = BrokenRows.fix in choices.fixes
    ahead = Ahead(read)
    unfolding = unfolding_of(columns, ahead.look())
    if unfolding is not None:
        outer = ahead
        ahead = Ahead(lambda: unfolding.rows(outer.take()))
        columns, kind = unfolding.columns, f"{kind}, keys of {brief(unfolding.name)}"
    return Table(
        columns,
        opened.name,
        opened.sha256,
        kind,
        opened.encoding,
        has_header,
        ahead,
        keeps_broken,
    )


def _open_saved(saved: SavedFolder, choices: ReadChoices) -> Table:
    columns = saved.columns()
    separated.check_header(columns, saved.name)
    first = replace(saved.files[0].source, name=saved.name, sha256=saved.sha256)
    return _table(first, columns, "Arrow", saved.rows, choices)


def _head_of(opened: Source) -> str:
    """Return the beginning of a text after leading white space of any length."""
    with opened.text() as file:
        while piece := file.read(HEAD_CHARACTERS):
            if piece.strip("\ufeff \t\r\n"):
                return piece + file.read(HEAD_CHARACTERS)
    return ""


def _open_json(
    opened: Source, kind: str, objects: Callable[[], Iterator[Row]], choices: ReadChoices
) -> Table:
    ahead = Ahead(objects)
    columns = json_records.columns_of(ahead.look())
    first = next(ahead.look(), None)
    if first is not None and first.fault and (first.is_end or not columns):
        problems = Problems(opened.name)
        problems.add(first)
        problems.refuse_any()
    json_records.refuse_keyless(columns, opened.name)

    def read() -> Iterator[Row]:
        return (json_records.spread(row, columns) for row in ahead.take())

    return _table(opened, columns, kind, read, choices)


def _open_separated(opened: Source, choices: ReadChoices) -> Table:
    lines = Ahead(opened.lines)
    layout = separated.find_layout(lines)

    def records() -> Iterator[Row]:
        return separated.read_records(opened, lines.take(), layout, has_header=choices.has_header)

    ahead = Ahead(records)
    first = next(ahead.look(), None)
    if first is None:
        raise DataError(
            f"{opened.name} is empty.", where=opened.name, hint="Choose a file that has rows."
        )
    if first.fault:
        problems = Problems(opened.name)
        problems.add(first)
        problems.refuse_any()
    columns = tuple(str(cell) for cell in first.cells)
    if choices.has_header:
        separated.check_header(columns, opened.name)
    else:
        columns = tuple(f"Column {index}" for index in range(1, len(columns) + 1))

    def read() -> Iterator[Row]:
        return islice(ahead.take(), 1 if choices.has_header else 0, None)

    return _table(opened, columns, layout.format, read, choices)
