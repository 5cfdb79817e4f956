"""Checks before a run is created or resumed: home and disk. Floor 3; no torch."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

from orpo_qlora import storage
from orpo_qlora.data.wording import in_bytes
from orpo_qlora.errors import DiskFull, InputError

NEEDED_BYTES = 256 * 1024 * 1024
"""Room for the data, metrics and log of a run; the worker checks the room for its checkpoints
once it knows their size."""
_TEST_FILE = ".write-test-"
STATES = 3
"""Weight-sized tensors in a training state: the adapter and Adam's two moments."""


def check_home() -> None:
    """Check that runs can be stored in the home folder; the caller holds the launch lock.

    Raises:
        InputError: it is not writable, or its file system does not enforce locks.
        DiskFull: less than `NEEDED_BYTES` are free.
    """
    home = storage.home()
    test_file = home / f"{_TEST_FILE}{uuid.uuid4().hex[:8]}"
    try:
        for leftover in home.glob(f"{_TEST_FILE}*"):
            leftover.unlink()  # of a program that was killed right here
        with storage.disk_errors(test_file):
            test_file.write_text("test", encoding="utf-8")
        _check_locks(test_file)
    except OSError as exc:
        raise InputError(
            f"The home folder {home} cannot be used ({exc.strerror}).",
            hint=f"Set {storage.HOME_VARIABLE} to a folder you own on a local disk.",
        ) from exc
    finally:
        test_file.unlink(missing_ok=True)
    check_room(home, NEEDED_BYTES)


def _check_locks(test_file: Path) -> None:
    """Some network file systems grant every lock to everybody."""
    first, second = storage.FileLock(test_file), storage.FileLock(test_file)
    try:
        if first.acquire() and second.acquire():
            raise InputError(
                f"The file system of {test_file.parent} does not enforce file locks, which keep "
                "two runs from training at once.",
                hint=f"Set {storage.HOME_VARIABLE} to a folder on a local disk.",
            )
    finally:
        first.release()
        second.release()


def check_room(folder: Path, needed_bytes: int) -> None:
    """Refuse a run that the disk cannot hold.

    Raises:
        DiskFull: names the folder, what is free and what is needed.
    """
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise DiskFull(
            f"The disk of {folder} has {in_bytes(free_bytes)} free, and this needs "
            f"{in_bytes(needed_bytes)}.",
            hint=f"Free some space, or set {storage.HOME_VARIABLE} to a larger disk.",
            where=os.fspath(folder),
        )


def checkpoints_bytes(trained_bytes: int, kept: int) -> int:
    """Return the bytes that checkpoints and adapter take at most, with a reserve.

    Args:
        trained_bytes: size of the trained weights.
        kept: checkpoints kept; one more exists while it is written.
    """
    return states_bytes(trained_bytes, kept) + NEEDED_BYTES // 4


def states_bytes(trained_bytes: int, kept: int) -> int:
    """Return the bytes of the checkpoints and the adapter alone."""
    return trained_bytes * (STATES * (kept + 1) + 2)
