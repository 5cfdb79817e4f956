"""Three or more columns of responses, such as response_1, response_2 and response_3. Floor 1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orpo_qlora.data.columns import ColumnMapping
from orpo_qlora.data.readers.rows import Row
from orpo_qlora.data.shapes import orders
from orpo_qlora.data.shapes.base import Head, RowFaultError, Shape
from orpo_qlora.data.shapes.content.cells import unpacked
from orpo_qlora.data.shapes.ranked_by import Scored, Source
from orpo_qlora.data.shapes.ranking import RankedList
from orpo_qlora.data.shapes.verdict.values import number_of

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
        listed = _by_list(head, columns, stem)
        if listed is not None:
            return RankedList(head, listed, mapping)
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


def _by_list(head: Head, columns: Sequence[_Column], stem: str) -> Source | None:
    """Return the order by one list beside the responses: scores, ranks, or names in order."""
    responses = [column.response for column in columns]
    for name, sign in (("scores", 1), ("ratings", 1), ("rewards", 1), ("ranks", -1)):
        index = head.find(name)
        if index is None or not head.most(index, _has_numbers(len(columns))):
            continue

        def by_number(row: Row, index: int = index, sign: int = sign) -> Scored:
            numbers = _numbers(row.cells[index])
            if len(numbers) != len(responses):
                raise RowFaultError("no-ranking", f"{row.cells[index]}"[:200])
            pairs = zip(numbers, responses, strict=True)
            return [(sign * number, row.cells[at]) for number, at in pairs if row.cells[at]]

        rule = "highest" if sign > 0 else "lowest"
        meaning = f"“{stem}” columns with “{head.columns[index]}”, the {rule} is the best"
        return Source(by_number, (*responses, index), meaning)
    return _by_order(head, columns, stem)


def _by_order(head: Head, columns: Sequence[_Column], stem: str) -> Source | None:
    """Return the order by the columns' names, letters or numbers, the best first."""
    places = {orders.plain_label(name): at for name, at in _names_of(head, columns, stem).items()}
    for name in orders.NAMES:
        index = head.find(name)
        if index is None or not head.most(index, lambda cell: _known(cell, places) > 1):
            continue

        def read(row: Row, index: int = index) -> Scored:
            order = orders.order_of(row.cells[index])
            if order is None:
                raise RowFaultError("no-ranking", f"{row.cells[index]}"[:200])
            return [(score, row.cells[at]) for at, score in orders.scores_of(order, places).items()]

        meaning = f"“{head.columns[index]}” names the “{stem}” columns, the best first"
        return Source(read, (*(column.response for column in columns), index), meaning)
    return None


def _known(cell: object, places: dict[str, int]) -> int:
    """Return how many of the names in an order are columns."""
    return sum(name in places for group in orders.order_of(cell) or [] for name in group)


def _plain_list(cell: object) -> list[str]:
    value = unpacked(cell)
    return [str(one).strip().casefold() for one in value] if isinstance(value, list) else []


def _numbers(cell: object) -> list[float]:
    return [number for one in _plain_list(cell) if (number := number_of(one)) is not None]


def _has_numbers(count: int) -> Callable[[object], bool]:
    return lambda cell: len(_numbers(cell)) == count


def _names_of(head: Head, columns: Sequence[_Column], stem: str) -> dict[str, int]:
    return {
        name: column.response
        for column in columns
        for name in (column.end, head.columns[column.response].casefold(), f"{stem}_{column.end}")
    }


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
    names = _names_of(head, columns, stem)

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
