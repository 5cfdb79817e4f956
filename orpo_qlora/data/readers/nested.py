"""Rows whose preference is inside one object, such as `{"id": 1, "data": {…}}`. Floor 1; no torch.

The keys of the object become columns; the format in the data summary names it. Argilla's records
have the verdict in `responses` beside `fields`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from orpo_qlora.data.column_names import plain_name
from orpo_qlora.data.columns import SYNONYMS, guess_mapping
from orpo_qlora.data.readers.rows import Row
from orpo_qlora.data.shapes.content.cells import unpacked
from orpo_qlora.errors import NeedsColumns

_HEAD = 20
_CONTAINERS = {"data", "row", "fields", "record", "example", "sample", "item", "json", "payload"}
"""Names of objects around a whole row."""
_BESIDE = {"fields": "responses"}
"""Objects beside a container that hold the verdict."""
_OWN = {"role", "from", "messages"}
"""Keys of a message: such an object is a cell."""


@dataclass(frozen=True)
class Unfolding:
    """The columns of a table whose objects are unfolded."""

    columns: tuple[str, ...]
    name: str
    _objects: tuple[int, ...]
    _kept: tuple[int, ...]
    _keys: tuple[str, ...]

    def rows(self, rows: Iterator[Row]) -> Iterator[Row]:
        """Yield the rows with the cells of the unfolded columns."""
        for row in rows:
            if row.fault:
                yield row
                continue
            values: dict[str, object] = {}
            for index in self._objects:
                found = _object(row.cells[index])
                values |= {key: one for key, one in found.items() if values.get(key) is None}
            cells = (*(row.cells[at] for at in self._kept), *map(values.get, self._keys))
            yield Row(cells, row.number, row.line)


def unfolding_of(columns: Sequence[str], rows: Iterator[Row]) -> Unfolding | None:
    """Return how the rows are unfolded, None where the preference is in the columns themselves."""
    if _has_answers(columns):
        return None
    head = [row for row in islice(rows, _HEAD) if not row.fault]
    objects = [index for index in range(len(columns)) if _are_objects(head, index)]
    names = {plain_name(columns[index]): index for index in objects}
    index = next((names[name] for name in names if name in _CONTAINERS), None)
    if index is None:
        index = next((at for at in objects if _holds_pair(head, at)), None)
    if index is None:
        return None
    beside = names.get(_BESIDE.get(plain_name(columns[index]), ""))
    chosen: tuple[int, ...] = (index,) if beside is None else (index, beside)
    if not set(SYNONYMS["prompt"]) & set(_keys_of(head, index)):
        chosen += tuple(at for at in objects if at not in chosen and _holds_prompt(head, at))
    keys = tuple(dict.fromkeys(key for at in chosen for key in _keys_of(head, at)))
    kept = tuple(at for at in range(len(columns)) if at not in chosen and columns[at] not in keys)
    unfolded = (*(columns[at] for at in kept), *keys)
    return Unfolding(unfolded, columns[index], chosen, kept, keys)


def _has_answers(columns: Sequence[str]) -> bool:
    try:
        guess_mapping(columns)
    except NeedsColumns:
        return False
    return True


def _are_objects(head: Sequence[Row], index: int) -> bool:
    cells = [_object(row.cells[index]) for row in head if row.cells[index] not in (None, "")]
    return bool(cells) and all(cell and not _OWN & cell.keys() for cell in cells)


def _object(cell: object) -> dict[str, object]:
    """Return an object, also one that a CSV holds as text; empty for anything else."""
    value = unpacked(cell) if isinstance(cell, str) else cell
    return value if isinstance(value, dict) else {}


def _keys_of(head: Sequence[Row], index: int) -> dict[str, None]:
    return {key: None for row in head for key in map(str, _object(row.cells[index]))}


def _holds_prompt(head: Sequence[Row], index: int) -> bool:
    """Return whether the objects of a column are a prompt, such as `{"prompt": …}`."""
    return bool(set(SYNONYMS["prompt"]) & set(map(plain_name, _keys_of(head, index))))


def _holds_pair(head: Sequence[Row], index: int) -> bool:
    """Return whether the objects of a column hold a chosen and a rejected response."""
    keys = list(_keys_of(head, index))
    try:
        mapping = guess_mapping(keys)
    except NeedsColumns:
        return False
    answers = [_object(row.cells[index]).get(mapping.chosen) for row in head]
    return all(isinstance(one, str | list | dict | None) for one in answers)
