"""One JSON object that holds whole columns, as `datasets` and pandas write them. Floor 1; no torch.

`{"prompt": ["…"], "chosen": ["…"]}`, pandas' `{"prompt": {"0": "…"}}`, its orient “index”
`{"0": {"prompt": "…"}}` and its orient “split” `{"columns": […], "data": [[…]]}`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from orpo_qlora.data.column_names import plain_name
from orpo_qlora.data.columns import SYNONYMS
from orpo_qlora.data.readers.json_records import Window
from orpo_qlora.data.readers.rows import Row
from orpo_qlora.data.readers.source import Source

COLUMNAR_BYTES = 256_000_000
"""Largest such file: it has to be read as a whole."""
_MESSAGE_KEYS = {"role", "from"}
_FIRST = {"[", "{"}
_KNOWN = {name for part in ("prompt", "chosen", "rejected") for name in SYNONYMS[part]} | {
    "messages", "conversations", "responses", "completions", "winner", "preference",
}  # fmt: skip
_CELL_KEYS = {"text", "content", "value", "score", "rating", "model", "role", "from", "answer"}
"""Keys of a prompt or response written as an object."""


def read_columns(source: Source) -> list[dict[str, object]] | None:
    """Return the records of a JSON object of columns, None where the file is something else."""
    if source.size > COLUMNAR_BYTES:
        return None
    try:
        with source.text() as file:
            value = _read_object(Window(file.read))
    except (ValueError, RecursionError):
        return None
    return None if value is None else _records(value)


def _read_object(window: Window) -> dict[str, object] | None:
    """Return the only object of a file whose values are all lists or objects, else None."""
    value: dict[str, object] = {}
    for key in window.object_keys():
        if window.peek() not in _FIRST:
            return None
        column = _read_list(window) if window.peek() == "[" else window.value()
        if column is None or not _is_column(column):
            return None
        value[key] = column
    return None if window.peek() else value


def _read_list(window: Window) -> list[object] | None:
    """Take a list; None at its first record, so that a list of records is not read whole here."""
    values: list[object] = []
    window.take("[")
    window.skip_space()
    while window.peek() != "]":
        value = window.value()
        if isinstance(value, dict) and not _MESSAGE_KEYS & value.keys():
            return None
        values.append(value)
        window.skip_space()
        if window.peek() != "]":
            window.take(",")
            window.skip_space()
            if window.peek() == "]":
                raise ValueError("a comma before the end of a list")
    window.take("]")
    return values


def _is_column(value: object) -> bool:
    """Return whether a value may be a column: neither one message nor a list of records."""
    if isinstance(value, dict):
        return not _MESSAGE_KEYS & value.keys()
    return isinstance(value, list) and all(
        _MESSAGE_KEYS & one.keys() for one in value if isinstance(one, dict)
    )


def _records(value: dict[str, object]) -> list[dict[str, object]] | None:
    if set(value) >= {"columns", "data"} and set(value) <= {"columns", "data", "index"}:
        return _from_split(value["columns"], value["data"])
    if len(value) < 2:
        return None
    lists = [column for column in value.values() if isinstance(column, list)]
    if len(lists) == len(value):
        if len({len(column) for column in lists}) > 1 or not lists[0]:
            return None
        are_messages = all(isinstance(one, dict) for column in lists for one in column)
        if are_messages or any(map(_is_conversation, lists)):
            return None  # one row of conversations
        return [dict(zip(value, row, strict=True)) for row in zip(*lists, strict=True)]
    tables = [column for column in value.values() if isinstance(column, dict)]
    if len(tables) < len(value) or any(set(table) != set(tables[0]) for table in tables):
        return None
    if all(key.isdigit() for key in value) or _are_named_rows(value, tables):
        return tables
    if not all(key.isdigit() for key in tables[0]) and not _are_named_columns(value, tables):
        return None
    keys = list(tables[0])
    return [dict(zip(value, (table[key] for table in tables), strict=True)) for key in keys]


def _is_conversation(column: list[object]) -> bool:
    """Return whether a list is the turns of one conversation: messages of more than one role."""
    roles = {one.get("role", one.get("from")) if isinstance(one, dict) else None for one in column}
    return None not in roles and len(roles) > 1


def _are_named_rows(value: Iterable[str], tables: Sequence[dict[str, object]]) -> bool:
    """Return whether objects are rows under names of their own, such as ids."""
    are_lists = all(isinstance(cell, list) for table in tables for cell in table.values())
    return _has_known(tables[0]) and not _has_known(value) and not are_lists


def _are_named_columns(value: Iterable[str], tables: Sequence[dict[str, object]]) -> bool:
    """Return whether objects are columns whose rows have names: not one row of objects."""
    return _has_known(value) and not _has_known(tables[0]) and not _CELL_KEYS & tables[0].keys()


def _has_known(names: Iterable[str]) -> bool:
    return any(plain_name(name) in _KNOWN for name in names)


def _from_split(columns: object, data: object) -> list[dict[str, object]] | None:
    if not isinstance(columns, list) or not isinstance(data, list):
        return None
    if not all(isinstance(row, list) and len(row) == len(columns) for row in data):
        return None
    return [dict(zip(map(str, columns), row, strict=True)) for row in data]


def rows_of(records: list[dict[str, object]]) -> Iterator[Row]:
    """Yield one row per record."""
    for number, record in enumerate(records, start=1):
        yield Row((record,), number, 0)
