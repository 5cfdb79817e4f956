"""The page's own temporary folder, and that none outlives its page for long. Floor 5.

A page that is killed cannot remove its folder, which may hold gigabytes of uploads: the next one
does. Each page leaves a note in the home that says where its folder is, and holds its lock.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orpo_qlora import storage

PREFIX = "orpo-qlora-page-"


@contextmanager
def private_folder() -> Iterator[Path]:
    """Give a new folder that is removed at the end, by a later page if need be."""
    notes = storage.home() / "pages"
    notes.mkdir(mode=0o700, exist_ok=True)
    folder = Path(tempfile.gettempdir()) / f"{PREFIX}{secrets.token_hex(8)}"
    note = notes / folder.name
    lock = storage.FileLock(note)
    with storage.FileLock(notes / "lock"):
        _remove_those_of_dead_pages(notes)
        lock.acquire()
        note.write_text(str(folder), encoding="utf-8")
    try:
        folder.mkdir(mode=0o700)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        note.unlink(missing_ok=True)
        lock.release()


def _remove_those_of_dead_pages(notes: Path) -> None:
    for note in notes.glob(f"{PREFIX}*"):
        if storage.is_locked(note):
            continue
        folder = Path(note.read_text(encoding="utf-8"))
        # Others may write in the temporary folder: only what is ours goes.
        if folder.name == note.name and _is_own_folder(folder):
            shutil.rmtree(folder, ignore_errors=True)
        note.unlink()


def _is_own_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and path.stat().st_uid == os.getuid()
