"""Preferences inside a list of a row, or in the last turn of its conversation. Floor 1; no torch.

Each object of the list, with the columns beside it, is read like a row in whatever shape it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from orpo_qlora.data.column_names import plain_name
from orpo_qlora.data.columns import guess_mapping
from orpo_qlora.data.readers.rows import Row
from orpo_qlora.data.shapes.base import Candidate, Head, Preference, RowFaultError, Shape
from orpo_qlora.data.shapes.content.cells import (
    CONTENT_KEYS,
    ROLE_KEYS,
    is_message,
    is_message_list,
    unpacked,
)
from orpo_qlora.data.shapes.content.prompts import similar_prompt
from orpo_qlora.data.shapes.content.rounds import ROUND_KEYS
from orpo_qlora.data.shapes.labelled import LabelledAnswers
from orpo_qlora.data.shapes.registry import recognise as recognise_columns
from orpo_qlora.data.shapes.registry import shape_of_mapping
from orpo_qlora.errors import NeedsColumns

_CONVERSATIONS = ("messages", "conversations", "conversation", "dialogue", "dialog", "prompt")
_PAIRS = {"pairs", "preference_pairs", "comparisons", "preferences", "preference"}
"""Columns whose lists of two texts hold the better one first."""
_NO_ROWS = {"metadata", "meta", "annotations", "annotation", "info", "extra", "tools", "functions"}
"""Columns whose objects say something about a row and are no preferences."""
_OF_MESSAGE = {*ROLE_KEYS, *CONTENT_KEYS, *ROUND_KEYS, "tool_calls", "function_call", "name"}
Objects = Callable[[Row], list[dict[str, object]]]


@dataclass(frozen=True)
class Inside:
    """How one row is opened into several."""

    index: int
    """The column that holds the preferences."""
    columns: tuple[str, ...]
    """Columns of an inner row."""
    objects: Objects
    """Cells of each inner row, by column."""
    note: str

    def rows(self, row: Row) -> list[Row]:
        """Return the inner rows of a row, with its number."""
        return [
            Row(tuple(map(cells.get, self.columns)), row.number, row.line)
            for cells in self.objects(row)
        ]


class InnerRows(Shape):
    """Rows that hold several preferences each, or one in the last turn of a conversation."""

    def __init__(self, head: Head, inside: Inside, inner: Shape) -> None:
        self._inside, self._inner, self._column = inside, inner, head.columns[inside.index]
        self.name = inner.name
        beside = [name for name in inner.used if name in head.columns and name != self._column]
        self.used = (self._column, *beside)
        self.has_python_lists = inner.has_python_lists
        self.notes = (inside.note, *inner.notes)

    def candidates(self, rows: Iterator[Row]) -> Iterator[Candidate]:
        """Yield a candidate for each inner row, so that one without a preference is counted."""
        for row in rows:
            inner = [] if row.fault else self._inside.rows(row)
            if not inner:
                reason = "broken-rows" if row.fault else "no-messages"
                yield Candidate(row, reason, f"column “{self._column}” holds no preference")
            for one in inner:
                try:
                    for preference in self._inner.preferences(one):
                        yield Candidate(row, preference)
                except RowFaultError as exc:
                    yield Candidate(row, exc.reason, exc.detail)

    def preferences(self, row: Row) -> Sequence[Preference]:
        """Return the preferences of a row."""
        inner = self._inside.rows(row)
        return [preference for one in inner for preference in self._inner.preferences(one)]

    def ranking_pairs(self) -> dict[str, int]:
        """Return the pairs that each setting gives in the rows read so far."""
        return self._inner.ranking_pairs()


def recognise(head: Head) -> Shape | None:
    """Return the shape of a file whose rows hold preferences in a list, else None."""
    if _has_answers(head):
        return None
    for index in range(len(head.columns)):
        for open_column in (_last_turn, _objects, _twos):
            inside = open_column(head, index)
            inner = None if inside is None else _inner_shape(head, inside)
            if inside is not None and inner is not None:
                return InnerRows(head, inside, inner)
    return None


def _has_answers(head: Head) -> bool:
    try:
        guess_mapping(head.columns, has_header=head.has_header)
    except NeedsColumns:
        return False
    return True


def _inner_shape(head: Head, inside: Inside) -> Shape | None:
    rows = [inner for row in head.rows if not row.fault for inner in inside.rows(row)]
    inner = Head(inside.columns, rows, head.pairs_from_ranking, has_header=False)
    try:
        shape = recognise_columns(inner) or _pairs_shape(inner)
    except NeedsColumns:
        return None
    # Labels are paired across rows: each list would be one prompt of its own.
    return None if isinstance(shape, LabelledAnswers) else shape


def _pairs_shape(head: Head) -> Shape | None:
    mapping = guess_mapping(head.columns, has_header=False)
    answers = [head.columns.index(name) for name in (mapping.chosen, mapping.rejected)]
    if not all(head.most(at, lambda cell: isinstance(cell, str | list | dict)) for at in answers):
        return None
    shape = shape_of_mapping(mapping, head)
    prompt = "" if shape.name else similar_prompt(mapping, head)
    if prompt:
        shape = shape_of_mapping(replace(mapping, prompt=prompt), head)
    return shape if shape.name else None


def _objects(head: Head, index: int) -> Inside | None:
    """Return how to open a list of objects: each is an inner row."""
    if plain_name(head.columns[index]) in _NO_ROWS or not _most(head, index, _is_object_list):
        return None

    def objects(row: Row) -> list[dict[str, object]]:
        outer = _beside(head, row, index)
        return [{**outer, **_filled(one)} for one in _dicts(row.cells[index])]

    keys = [key for cell in head.cells(index) for one in _dicts(cell) for key in one]
    column = head.columns[index]
    note = f"Each object of the list “{column}” is read like a row."
    return Inside(index, _columns(head, index, keys), objects, note)


def _twos(head: Head, index: int) -> Inside | None:
    """Return how to open a list of [better, worse]."""
    column = head.columns[index]
    if plain_name(column) not in _PAIRS or not _most(head, index, _is_list_of_twos):
        return None

    def objects(row: Row) -> list[dict[str, object]]:
        outer, value = _beside(head, row, index), unpacked(row.cells[index])
        twos = value if isinstance(value, list) else []
        return [
            {**outer, "chosen": one[0], "rejected": one[1]}
            for one in twos
            if isinstance(one, list) and len(one) == 2
        ]

    note = f"Each pair of the list “{column}” holds the better response first."
    return Inside(index, _columns(head, index, ["chosen", "rejected"]), objects, note)


def _last_turn(head: Head, index: int) -> Inside | None:
    """Return how to open a conversation whose last turn holds the responses."""
    column = head.columns[index]
    if plain_name(column) not in _CONVERSATIONS or not _most(head, index, _ends_with_more):
        return None

    def objects(row: Row) -> list[dict[str, object]]:
        turns = unpacked(row.cells[index])
        if not isinstance(turns, list) or not turns or not isinstance(turns[-1], dict):
            return []
        last = {key: one for key, one in turns[-1].items() if _is_of_message(key)}
        more = {key: one for key, one in turns[-1].items() if not _is_of_message(key)}
        has_text = any(one for key, one in last.items() if key not in ROLE_KEYS)
        conversation = [*turns[:-1], last] if has_text else turns[:-1]
        return [{**_beside(head, row, index), column: conversation, **_filled(more)}]

    lasts = [_last_of(cell) for cell in head.cells(index)]
    keys = [column, *(key for last in lasts for key in last if not _is_of_message(key))]
    note = f"The responses are in the last turn of “{column}”."
    return Inside(index, _columns(head, index, keys), objects, note)


def _most(head: Head, index: int, test: Callable[[object], bool]) -> bool:
    """Return whether most lists of a column that are not empty pass a test."""
    filled = [cell for cell in head.cells(index) if unpacked(cell) != []]
    return bool(filled) and sum(map(test, filled)) * 2 > len(filled)


def _beside(head: Head, row: Row, index: int) -> dict[str, object]:
    return {name: row.cells[at] for at, name in enumerate(head.columns) if at != index}


def _columns(head: Head, index: int, keys: Sequence[str]) -> tuple[str, ...]:
    outer = [name for at, name in enumerate(head.columns) if at != index]
    return tuple(dict.fromkeys((*outer, *map(str, keys))))


def _filled(cells: dict[str, object]) -> dict[str, object]:
    return {str(key): cell for key, cell in cells.items() if cell is not None}


def _dicts(cell: object) -> list[dict[str, object]]:
    value = unpacked(cell)
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _is_object_list(cell: object) -> bool:
    value = unpacked(cell)
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(one, dict) and not is_message(one) for one in value)
        and not is_message_list(value)
    )


def _is_list_of_twos(cell: object) -> bool:
    value = unpacked(cell)
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(one, list) and len(one) == 2 for one in value)
        and all(isinstance(text, str) for one in value for text in one)
    )


def _last_of(cell: object) -> dict[str, object]:
    return (_dicts(cell) or [{}])[-1]


def _ends_with_more(cell: object) -> bool:
    """Return whether the last turn holds more than a message, and text or lists in it."""
    more = [one for key, one in _last_of(cell).items() if not _is_of_message(key)]
    return any(isinstance(one, str | list) and one for one in more)


def _is_of_message(key: object) -> bool:
    return plain_name(str(key)) in _OF_MESSAGE
