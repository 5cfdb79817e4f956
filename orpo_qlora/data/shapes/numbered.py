"""Three or more columns of responses, such as response_1, response_2 and response_3. Floor 1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orpo_qlora.data.columns import ColumnMapping
from orpo_qlora.data.readers.rows import Row
from orpo_qlora.data.shapes.base import Head, RowFaultError, Shape
from orpo_qlora.data.shapes.ranking import RankedList, Scored, Source
from orpo_qlora.data.shapes.verdict_values import number_of

_STEMS = ("response", "answer", "completion", "output", "generation", "candidate", "summary")
_ENDS = tuple("0123456789abcdefgh")
_BEST = ("best", "best_response", "best_answer", "choice", "winner", "preferred", "preference",
         "chosen", "better", "label")  # fmt: skip
FEWEST = 3


@dataclass(frozen=True)
class _Column:
    """One response, and its score or rank."""

    response: int
    score: int | None
    sign: int
    """1 if the highest score is the best, -1 if the lowest is."""
    end: str


def recognise(head: Head, mapping: ColumnMapping | None = None) -> Shape | None:
    """Return the shape of a file with three or more numbered responses, else None."""
    for stem in _STEMS:
        columns = [
            _column(head, stem, end, index)
            for end in _ENDS
            if (index := head.find(f"{stem}_{end}", f"{stem}{end}")) is not None
        ]
        if len(columns) < FEWEST:
            continue
        scored = [column for column in columns if column.score is not None]
        if len(scored) >= FEWEST:
            return RankedList(head, _by_score(scored, stem), mapping)
        best = head.find(*_BEST)
        if best is not None:
            return RankedList(head, _by_best(head, columns, stem, best), mapping)
    return None


def _column(head: Head, stem: str, end: str, response: int) -> _Column:
    for kind, sign in (("score", 1), ("rating", 1), ("reward", 1), ("rank", -1)):
        score = head.find(f"{kind}_{end}", f"{kind}{end}", f"{stem}_{end}_{kind}")
        if score is not None:
            return _Column(response, score, sign, end)
    return _Column(response, None, 1, end)


def _by_score(columns: Sequence[_Column], stem: str) -> Source:
    indices = tuple(
        index
        for column in columns
        for index in (column.response, column.score)
        if index is not None
    )
    rule = "highest" if columns[0].sign > 0 else "lowest"
    return Source(
        _scores_of(columns),
        indices,
        f"“{stem}” columns with a number each, the {rule} is the best",
    )


def _scores_of(columns: Sequence[_Column]) -> Callable[[Row], Scored]:
    def read(row: Row) -> Scored:
        return [
            (column.sign * number, row.cells[column.response])
            for column in columns
            if column.score is not None and row.cells[column.response] is not None
            if (number := number_of(row.cells[column.score])) is not None
        ]

    return read


def _by_best(head: Head, columns: Sequence[_Column], stem: str, best: int) -> Source:
    """Return the order by a column that names the best response by its end, or by its column."""
    names = {
        name: column.response
        for column in columns
        for name in (column.end, head.columns[column.response].casefold(), f"{stem}_{column.end}")
    }

    def read(row: Row) -> Scored:
        value = str(row.cells[best]).strip().casefold().removesuffix(".0")
        if value not in names:
            raise RowFaultError("unclear-verdict", value)
        return [
            (float(column.response == names[value]), row.cells[column.response])
            for column in columns
            if row.cells[column.response]
        ]

    return Source(
        read,
        (*(column.response for column in columns), best),
        f"“{head.columns[best]}” names the best of the “{stem}” columns",
    )
