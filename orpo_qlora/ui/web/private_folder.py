"""The page's temporary folder, also removed if the page was killed. Floor 6.

It may hold gigabytes of uploads. Each page writes the folder's path into a file under the home and
holds its lock; the next page removes the folders whose lock is free.
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
    """Create a folder for this page; remove it at exit, and those of killed pages at once."""
    notes = storage.home() / "pages"
    notes.mkdir(mode=0o700, exist_ok=True)
    folder = Path(tempfile.gettempdir()) / f"{PREFIX}{secrets.token_hex(8)}"
    note = notes / folder.name
    lock = storage.FileLock(note)
    with storage.FileLock(notes / "lock"):
        _remove_folders_of_killed_pages(notes)
        lock.acquire()
        note.write_text(str(folder), encoding="utf-8")
    try:
        folder.mkdir(mode=0o700)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        note.unlink(missing_ok=True)
        lock.release()


def _remove_folders_of_killed_pages(notes: Path) -> None:
    for note in notes.glob(f"{PREFIX}*"):
        if storage.is_locked(note):
            continue
        folder = Path(note.read_text(encoding="utf-8"))
        # Other users can write to the temporary folder: remove nothing but our own.
        if folder.name == note.name and _is_own_folder(folder):
            shutil.rmtree(folder, ignore_errors=True)
        note.unlink()


def _is_own_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and path.stat().st_uid == os.getuid()
