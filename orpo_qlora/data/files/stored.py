"""Files stored in the home's `datasets/` folder, each named by its SHA-256. Floor 1; no torch."""

from __future__ import annotations

import shutil
from pathlib import Path

from orpo_qlora import storage
from orpo_qlora.data.wording import in_bytes
from orpo_qlora.errors import DiskFull

STORED_BYTES = 32 * 1024**3
"""Limit for all stored files together."""
FREE_BYTES = 1024**3
"""Free disk space that a stored file must leave for runs."""
DATA, NAME, SOURCE = ".data", ".name", ".source.json"
"""Suffixes of the files stored under one SHA-256."""


def folder() -> Path:
    """Return the folder of stored files."""
    return storage.home() / "datasets"


def stored_path(sha256: str, suffix: str) -> Path:
    """Return the path of one of the files stored under a SHA-256, there or not."""
    return folder() / f"{sha256}{suffix}"


def check_room(size: int) -> None:
    """Refuse a file that would exceed the limit or fill the disk.

    Args:
        size: bytes still to be written.

    Raises:
        DiskFull: names the limit and the folder.
    """
    stored = sum(file.stat().st_size for file in folder().glob(f"*{DATA}"))
    if stored + size > STORED_BYTES:
        raise DiskFull(
            f"This file has {in_bytes(size)}; earlier uploads already take "
            f"{in_bytes(stored)} of the {in_bytes(STORED_BYTES)} allowed.",
            hint=f"Delete files you no longer need from {folder()}.",
        )
    free = shutil.disk_usage(folder()).free
    if free - size < FREE_BYTES:
        raise DiskFull(
            f"The disk has {in_bytes(free)} free, and this file takes {in_bytes(size)}.",
            hint=f"Free some space: {in_bytes(FREE_BYTES)} must stay free for runs.",
        )
