"""Where things live on disk and how they get there whole. Ground floor; every process."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import platformdirs

from orpo_qlora.errors import DiskFull, InputError

HOME_VARIABLE = "ORPO_QLORA_HOME"
FOLDERS = ("runs", "models", "datasets", "exports")


def home() -> Path:
    """Return the private folder that holds runs, models, datasets and exports, made if missing.

    `ORPO_QLORA_HOME` decides, else the platform's data folder.

    Raises:
        InputError: the folder cannot be created or written.
    """
    chosen = os.environ.get(HOME_VARIABLE)
    root = Path(chosen).expanduser() if chosen else platformdirs.user_data_path("orpo-qlora")
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in FOLDERS:
            (root / name).mkdir(mode=0o700, exist_ok=True)
    except OSError as exc:
        raise InputError(
            f"The home folder {root} cannot be written ({exc.strerror}).",
            hint=f"Set {HOME_VARIABLE} to a folder you own.",
        ) from exc
    return root.resolve()


def sha256_of(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk into a DiskFull that names the folder."""
    try:
        yield
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskFull(
                f"The disk is full: writing {path.name} in {path.parent} failed.",
                hint="Free some space and start again; everything written before is kept.",
            ) from exc
        raise


def write_whole(path: Path, text: str | Iterable[str]) -> None:
    """Replace a text file so that a reader, or a crash, sees the old or the new one, never a part.

    Raises:
        DiskFull: the old file is kept.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    with disk_errors(path):
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.writelines([text] if isinstance(text, str) else text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class JsonLines:
    """An append-only file of one JSON object per line, each written by a single system call."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def append(self, record: dict[str, object]) -> None:
        """Append one record; numbers must be finite.

        Raises:
            DiskFull: nothing or an unterminated fragment was written, which readers skip.
        """
        line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        with disk_errors(self.path):
            os.write(self._descriptor, line.encode())

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def read_json_lines(path: Path, offset: int = 0) -> tuple[list[dict[str, object]], int]:
    """Return the whole records after byte `offset`, and the offset to go on from.

    Bytes after the last newline are an append in progress and are left for the next call; lines
    that are not JSON objects are skipped.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            chunk = file.read()
    except FileNotFoundError:
        return [], offset
    end = chunk.rfind(b"\n") + 1
    records = []
    for line in chunk[:end].splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records, offset + end


class FileLock:
    """An advisory lock that the kernel frees when its holder dies, however it dies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self, patience_seconds: float = 0.0) -> bool:
        """Take the lock; False when somebody else still holds it after `patience_seconds`.

        A little patience is always in place: `is_locked` holds a lock while it looks.
        """
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + patience_seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    os.close(descriptor)
                    return False
                time.sleep(0.05)
            else:
                self._descriptor = descriptor
                return True

    def release(self) -> None:
        """Give the lock back; safe to call twice."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> FileLock:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        self._descriptor = descriptor
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def is_locked(path: Path) -> bool:
    """Tell whether a living process holds the lock at `path`."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        # A shared lock: two readers who look at the same moment must not take each other for the
        # holder.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
