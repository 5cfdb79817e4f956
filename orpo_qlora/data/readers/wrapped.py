"""One JSON object around a list of preferences: `{"data": [...]}`. Floor 1; no torch.

The list is never guessed: there must be exactly one list of objects, and the data summary names its
key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from orpo_qlora.data.columns import SYNONYMS, guess_mapping
from orpo_qlora.data.readers.json_records import Window, read_elements
from orpo_qlora.data.readers.rows import Row
from orpo_qlora.data.readers.source import Source
from orpo_qlora.data.wording import listed
from orpo_qlora.errors import DataError, NeedsColumns

MESSAGE_KEYS = {"role", "from"}
"""A list of such objects is a conversation, a part of one preference."""
_OF_ONE_ROW = {
    "messages", "conversations", "conversation", "contents", "context", "history", "dialogue",
    "dialog", "chat_history", "post", "src",
}  # fmt: skip
"""Keys of the turns before the responses: the object is one row."""
_NO_ROWS = {"tools", "functions", "features", "annotations"}
"""Keys whose objects are no rows; “features” is what the Hub's viewer writes beside its rows."""
OBJECTS, TEXT, OTHER = "objects", "text", "other"
"""What a key holds: a list of objects, what can be part of a preference, or neither."""


def find_list(source: Source, *, is_whole: bool = True) -> str | None:
    """Return the key of the one list of objects, None where the file is no object around one.

    Args:
        source: the file.
        is_whole: False takes the first list that fits, without reading to the end.

    Raises:
        DataError: the file is one object, and no preference, but holds no such list, or several.
    """
    kinds: dict[str, str] = {}
    try:
        with source.text() as file:
            window = Window(file.read)
            for key in window.object_keys():
                kinds[key] = OTHER  # until it is known better
                if key.casefold() in _NO_ROWS:
                    window.value()
                    kinds[key] = TEXT
                    continue
                kinds[key] = _kind_of_next(window, is_whole=is_whole)
            if window.peek():
                return None  # more follows: JSON lines
    except _FoundError:
        return None if _has_prompt(kinds) else list(kinds)[-1]
    except (ValueError, RecursionError):
        return None  # the error comes from reading it as JSON lines
    return _only_list(kinds, source.name)


def _only_list(kinds: Mapping[str, str], name: str) -> str | None:
    lists = [key for key, kind in kinds.items() if kind == OBJECTS]
    if _is_preference(list(kinds)) or _has_prompt(kinds):
        return None
    if len(lists) == 1:
        return lists[0]
    if lists:
        held = f"several lists of objects: {listed(lists)}"
    elif set(kinds.values()) <= {OTHER}:
        held = f"no list of objects under {listed(list(kinds))}" if kinds else "nothing in it"
    else:
        return None  # a row, whose columns have other names
    raise DataError(
        f"{name} is one JSON object with {held}.",
        where=name,
        hint="Save the list of preferences as a JSON array of its own, or write one JSON object "
        "per line.",
    )


def _has_prompt(kinds: Mapping[str, str]) -> bool:
    """Return whether a prompt is beside the list: the object is one row, a ranked list."""
    return any(key.casefold() in {*SYNONYMS["prompt"], *_OF_ONE_ROW} for key in kinds)


def _is_preference(keys: list[str]) -> bool:
    try:
        guess_mapping(keys)
    except NeedsColumns:
        return False
    return True


class _FoundError(Exception):
    """The next list fits; broken elements are reported when it is read."""


def _kind_of_next(window: Window, *, is_whole: bool) -> str:
    """Take the next value and return its kind."""
    if window.peek() != "[":
        return OTHER if isinstance(window.value(), dict) else TEXT
    window.take("[")
    kinds: set[str] = set()
    for row in read_elements(window):
        if row.fault and kinds != {OBJECTS}:
            raise ValueError(row.fault)
        kinds.add(OBJECTS if row.fault else _kind_of_element(row.cells[0]))
        if kinds == {OBJECTS} and (row.fault or not is_whole):
            raise _FoundError
    return kinds.pop() if len(kinds) == 1 else OTHER


def _kind_of_element(value: object) -> str:
    if not isinstance(value, dict):
        return OTHER
    return TEXT if MESSAGE_KEYS & value.keys() else OBJECTS


def read_list(source: Source, key: str) -> Iterator[Row]:
    """Yield one row per element of the list under a key."""
    with source.text() as file:
        window = Window(file.read)
        for found in window.object_keys():
            if found == key:
                window.take("[")
                yield from read_elements(window)
                return
            window.value()
