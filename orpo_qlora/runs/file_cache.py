"""What was made of a file, remembered until the file changes. Floor 3; no torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

Made = TypeVar("Made")

SETTLED_NS = 2_000_000_000
"""Two changes within one tick of a file system's clock look alike, so what was read of a file
changed that recently is read again. Two seconds is the coarsest tick in use."""
MOST = 20_000


@dataclass(frozen=True)
class Stamp:
    """Tells one writing of a file from the next; a replaced file is another inode."""

    inode: int
    changed_ns: int
    size_bytes: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """Return a file's stamp.

        Raises:
            FileNotFoundError: there is no such file.
        """
        found = path.stat()
        return cls(found.st_ino, found.st_mtime_ns, found.st_size)


class FileMemory(Generic[Made]):
    """Makes something of small files and keeps it, by path, while they stay as they are."""

    def __init__(self, make: Callable[[Path], Made]) -> None:
        self._make = make
        self._kept: dict[Path, tuple[Stamp, Made]] = {}

    def of(self, path: Path) -> Made:
        """Return what a file makes now.

        Raises:
            FileNotFoundError: there is no such file.
        """
        stamp = Stamp.of(path)
        kept = self._kept.get(path)
        if kept is not None and kept[0] == stamp:
            return kept[1]
        began_ns = time.time_ns()
        made = self._make(path)
        if began_ns - stamp.changed_ns > SETTLED_NS:
            if len(self._kept) >= MOST:
                self._kept.clear()
            self._kept[path] = (stamp, made)
        return made
