"""One pass over a file whose beginning can be looked at before it is read. Floor 1; no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Generic, TypeVar

from orpo_qlora.data.readers.rows import Row

AHEAD_CHARACTERS = 64_000_000
"""Text kept of what was looked at; where it is more, the file is read from its beginning again."""

Item = TypeVar("Item")


class Ahead(Generic[Item]):
    """The items of a file: `look` at the first as often as needed, then `take` all of them."""

    def __init__(self, start: Callable[[], Iterator[Item]]) -> None:
        self._start = start
        self._rest: Iterator[Item] | None = None
        self._seen: list[Item] = []
        self._characters = 0

    def look(self) -> Iterator[Item]:
        """Yield the items from the first one on; the caller stops when it has seen enough."""
        place = 0
        while True:
            if place == len(self._seen):
                if self._rest is None:
                    self._rest = self._start()
                item = next(self._rest, None)
                if item is None:
                    return
                self._seen.append(item)
                self._characters += _characters(item)
                if self._characters > AHEAD_CHARACTERS:
                    yield from self._look_on(item)
                    return
            yield self._seen[place]
            place += 1

    def _look_on(self, item: Item) -> Iterator[Item]:
        """Yield the rest without keeping it; the next pass starts at the beginning."""
        rest = self._rest or iter(())
        self._seen, self._rest, self._characters = [], None, 0
        yield item
        yield from rest

    def take(self) -> Iterator[Item]:
        """Return all items; a second call is a second pass over the file."""
        seen, rest = self._seen, self._rest
        self._seen, self._rest, self._characters = [], None, 0
        return self._start() if rest is None else chain(seen, rest)


def _characters(value: object) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Row):
        return sum(map(_characters, value.cells))
    if isinstance(value, dict):
        return sum(map(_characters, value.values()))
    return sum(map(_characters, value)) if isinstance(value, list | tuple) else 8
