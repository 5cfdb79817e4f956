"""What a shape is: recognised from the first rows of a file, it turns rows into preferences."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from orpo_qlora.data.column_names import plain_name
from orpo_qlora.data.columns import ColumnMapping
from orpo_qlora.data.files.choices import Labelled, PairsFromRanking
from orpo_qlora.data.messages import NO_TOOLS, Message, ToolUse, with_calls
from orpo_qlora.data.readers.rows import Row

HEAD_ROWS = 20
"""First rows that decide the shape of a file."""


Side = Literal["", "chosen", "rejected"]
SIDES: tuple[Side, Side] = ("chosen", "rejected")


class Preference(NamedTuple):
    """A preference as a row states it, before it is checked."""

    earlier: tuple[Message, ...]
    prompt: str
    chosen: str
    rejected: str
    tool_use: ToolUse = NO_TOOLS
    single: Side = ""
    """The side that a single labelled response is on; the other side is empty."""

    @property
    def texts(self) -> tuple[str, str, str]:
        """Prompt, chosen and rejected response, tool calls included."""
        use = self.tool_use
        if not use.chosen_calls and not use.rejected_calls:
            return self.prompt, self.chosen, self.rejected
        chosen = with_calls(self.chosen, use.chosen_calls)
        return self.prompt, chosen, with_calls(self.rejected, use.rejected_calls)


class Candidate(NamedTuple):
    """A preference of a row, or the reason why the row has none."""

    row: Row
    found: Preference | str
    """The preference, or the id of one of `doctor.findings.DROPS`."""
    detail: str = ""
    """What exactly is wrong, such as the column."""


class RowFaultError(Exception):
    """The row has no preference: the id of one of `doctor.findings.DROPS`, and a detail."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Head:
    """The columns and first rows of a file."""

    columns: tuple[str, ...]
    rows: Sequence[Row]
    pairs_from_ranking: PairsFromRanking = "best_worst"
    labelled: Labelled = "pairs"
    has_header: bool = True
    """Whether a first line names the columns, as in a CSV."""

    @property
    def where_named(self) -> str:
        """Where the names of the columns are, for an error."""
        return "header" if self.has_header else ""

    def find(self, *names: str) -> int | None:
        """Return the index of the first of these names that is a column."""
        plain = [plain_name(column) for column in self.columns]
        return next((plain.index(name) for name in names if name in plain), None)

    def cells(self, index: int) -> list[object]:
        """Return the cells of a column that are not empty."""
        cells = (row.cells[index] for row in self.rows if not row.fault)
        return [cell for cell in cells if cell is not None and cell != ""]

    def most(self, index: int | None, test: Callable[[object], bool]) -> bool:
        """Return whether most cells of a column that are not empty pass a test."""
        cells = [] if index is None else self.cells(index)[:HEAD_ROWS]
        return bool(cells) and sum(map(test, cells)) * 2 > len(cells)


class Shape(ABC):
    """How the rows of one file state preferences."""

    name: str
    used: tuple[str, ...] = ()
    """Columns that are read."""
    mapping: ColumnMapping | None = None
    """The columns of prompt and responses, for a shape that has them."""
    notes: tuple[str, ...] = ()
    """Sentences for the data summary: how the file was understood."""
    has_python_lists: bool = False
    """Whether messages are written as Python lists, not as JSON."""

    def candidates(self, rows: Iterator[Row]) -> Iterator[Candidate]:
        """Yield the preferences of the rows, in file order; at least one candidate per row."""
        for row in rows:
            if row.fault:
                yield Candidate(row, "broken-rows")
                continue
            try:
                for preference in self.preferences(row):
                    yield Candidate(row, preference)
            except RowFaultError as exc:
                yield Candidate(row, exc.reason, exc.detail)

    @abstractmethod
    def preferences(self, row: Row) -> Sequence[Preference]:
        """Return the preferences of a row.

        Raises:
            RowFaultError: it has none.
        """

    def ranking_pairs(self) -> dict[str, int]:
        """Return the pairs that each value of `pairs_from_ranking` gives; empty if not ranked."""
        return {}

    def labelled_counts(self) -> dict[Labelled, int]:
        """Return what each value of `labelled` gives; empty unless responses are labelled."""
        return {}
