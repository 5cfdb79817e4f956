"""One record of a file, and the error that lists broken records. Floor 1; no torch."""

from __future__ import annotations

from dataclasses import dataclass

from orpo_qlora.data.wording import plural
from orpo_qlora.errors import BrokenRows, DataError

PROBLEMS_SHOWN = 5
"""Problems of one file written out in the message; the rest are counted."""


@dataclass(frozen=True, slots=True)
class Row:
    """One record of the file; `cells` are as many as the table has columns, unless broken."""

    cells: tuple[object, ...]
    """Texts where the file holds text; in JSON and Parquet also lists, numbers and None."""
    number: int
    """The first row under the header is 1; blank lines are not counted."""
    line: int
    """Line of the file on which the row begins, 0 in Parquet; cells may hold line breaks."""
    fault: str = ""
    """Why the row cannot be read, as a sentence that follows its place; empty if it can."""
    hint: str = ""
    is_end: bool = False
    """Whether nothing after this broken row can be read either."""

    @property
    def place(self) -> str:
        """The row in words, for a message."""
        name = f"row {self.number:,}" if self.number else "the header"
        return f"{name} (line {self.line:,})" if self.line else name


class Problems:
    """All broken rows of one file, reported in one error."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._shown: list[str] = []
        self._count = 0
        self._first: Row | None = None
        self._is_end = False

    def add(self, row: Row) -> None:
        """Record a broken row."""
        self._first = self._first or row
        self._is_end = self._is_end or row.is_end
        if self._count < PROBLEMS_SHOWN:
            self._shown.append(f"{row.place} {row.fault}")
        self._count += 1

    def refuse_any(self) -> None:
        """Raise one error for all recorded rows.

        Raises:
            BrokenRows: every broken row can be dropped.
            DataError: from one of them on nothing can be read.
        """
        if self._first is None:
            return
        rest = self._count - len(self._shown)
        more = f"; and {plural(rest, 'row')} more" if rest else ""
        kind = DataError if self._is_end or not self._first.number else BrokenRows
        raise kind(
            f"{self._source}: {'; '.join(self._shown)}{more}.",
            hint=self._first.hint,
            where=f"{self._source}, {self._first.place}",
        )
