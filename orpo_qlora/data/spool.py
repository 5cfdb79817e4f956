"""A sequence that keeps its items as bytes in memory, then on disk. Floor 1; no torch.

A million pairs of 1 kB would be 2 GB of Python objects.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from abc import abstractmethod
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar, overload

from orpo_qlora import storage

MEMORY_BYTES = 64 << 20
"""Bytes kept in memory; more is written to an unnamed file in the home folder."""

Item = TypeVar("Item")


class Lazy(Sequence[Item]):
    """A sequence whose items are made on access; equal to any sequence of equal items."""

    @abstractmethod
    def at(self, index: int) -> Item:
        """Return the item at an index from 0."""

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Item, ...]: ...
    def __getitem__(self, index: int | slice) -> Item | tuple[Item, ...]:
        places = range(len(self))[index]
        return self.at(places) if isinstance(places, int) else tuple(map(self.at, places))

    def __iter__(self) -> Iterator[Item]:
        return map(self.at, range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # like a list: equal by content

    def __repr__(self) -> str:
        return f"<{len(self):,} items>"


class Chosen(Lazy[Item]):
    """Some items of another sequence, without copying them."""

    def __init__(self, items: Sequence[Item], places: array[int]) -> None:
        self._items, self._places = items, places

    def __len__(self) -> int:
        return len(self._places)

    def at(self, index: int) -> Item:
        """Return the item at an index from 0."""
        return self._items[self._places[index]]


class Spool(Lazy[Item], Generic[Item]):
    """An append-only sequence; each item is kept as bytes."""

    def __init__(self, pack: Callable[[Item], bytes], unpack: Callable[[bytes], Item]) -> None:
        self._pack, self._unpack = pack, unpack
        self._ends = array("Q", [0])
        self._memory = bytearray()
        self._descriptor: int | None = None
        self._written = 0

    def __len__(self) -> int:
        return len(self._ends) - 1

    def append(self, item: Item) -> None:
        """Add an item at the end.

        Raises:
            DiskFull: the disk is full.
        """
        self._memory += self._pack(item)
        self._ends.append(self._written + len(self._memory))
        if len(self._memory) >= MEMORY_BYTES:
            self._spill()

    def at(self, index: int) -> Item:
        """Return the item at an index from 0."""
        start, end = self._ends[index], self._ends[index + 1]
        if self._descriptor is not None and start < self._written:
            return self._unpack(os.pread(self._descriptor, end - start, start))
        return self._unpack(bytes(self._memory[start - self._written : end - self._written]))

    def _spill(self) -> None:
        folder = storage.home() / "datasets"
        with storage.disk_errors(folder / "pairs"):
            if self._descriptor is None:
                with tempfile.TemporaryFile(dir=folder) as file:
                    self._descriptor = os.dup(file.fileno())
                weakref.finalize(self, os.close, self._descriptor)
            view = memoryview(self._memory)
            while view:
                view = view[os.pwrite(self._descriptor, view, self._written) :]
                self._written = self._ends[-1] - len(view)
            view.release()
        self._memory = bytearray()
