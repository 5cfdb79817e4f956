"""Results computed from files, cached until the file changes. Floor 3; no torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from orpo_qlora.storage import FileStamp

Made = TypeVar("Made")

SETTLED_NS = 2_000_000_000
"""Two changes within one tick of a file system's clock have the same stamp, so a file changed that
recently is read again. Two seconds is the coarsest tick in use."""
MOST = 20_000


class FileMemory(Generic[Made]):
    """Caches what a function makes of small files, by path, until they change."""

    def __init__(self, make: Callable[[Path], Made]) -> None:
        self._make = make
        self._kept: dict[Path, tuple[FileStamp, Made]] = {}

    def of(self, path: Path) -> Made:
        """Return the result for the file as it is now.

        Raises:
            FileNotFoundError: there is no such file.
        """
        stamp = FileStamp.of(path)
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
