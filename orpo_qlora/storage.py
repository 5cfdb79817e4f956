"""The home folder, atomic writes, appended lines and locks. Ground floor; every process."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import platformdirs
from safetensors import SafetensorError

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


@dataclass(frozen=True)
class FileStamp:
    """Identifies a version of a file by inode, time and size."""

    inode: int
    changed_ns: int
    size_bytes: int

    @classmethod
    def of(cls, path: Path) -> FileStamp:
        """Return a file's stamp.

        Raises:
            FileNotFoundError: there is no such file.
        """
        found = path.stat()
        return cls(found.st_ino, found.st_mtime_ns, found.st_size)


def stamps(folder: Path, patterns: Iterable[str]) -> list[tuple[str, int, int]]:
    """Return name, size and time of change of matching files; nothing without the folder."""
    files = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    found = [(path.name, FileStamp.of(path)) for path in files]
    return [(name, stamp.size_bytes, stamp.changed_ns) for name, stamp in found]


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk into a DiskFull that names the folder."""
    try:
        yield
    except (OSError, SafetensorError) as exc:
        if _error_number(exc) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskFull(
                f"The disk is full: writing {path.name} in {path.parent} failed.",
                hint="Free some space and resume; everything written before is kept.",
            ) from exc
        raise


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn what the system refuses into an InputError that names the path and the reason."""
    try:
        yield
    except OSError as exc:
        raise InputError(
            f"{path} cannot be written ({exc.strerror}).", hint="Choose a folder you may write to."
        ) from exc


def _error_number(error: OSError | SafetensorError) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    # safetensors 0.6 writes in Rust and reports the system's error only as text.
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Replace a file atomically: yields a draft beside it, which the block writes and syncs.

    Raises:
        DiskFull: the old file is kept.
    """
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    with disk_errors(path):
        try:
            yield draft
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        sync_folder(path.parent)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Make a folder whole: yields a draft beside it, which the block fills.

    After an error nothing is left, and what a killed writer left is removed. Only one process may
    make the folder at a time.

    Raises:
        DiskFull: nothing is left behind.
    """
    draft = draft_of(folder)
    shutil.rmtree(draft, ignore_errors=True)
    try:
        with disk_errors(folder):
            draft.mkdir(parents=True)
            yield draft
            sync_files(draft)
            draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    sync_folder(folder.parent)


def draft_of(folder: Path) -> Path:
    """Return where `new_folder` fills a folder."""
    return folder.with_name(f".{folder.name}.draft")


def write_whole(path: Path, text: str | Iterable[str]) -> None:
    """Replace a text file so that a reader, or a crash, sees the old or the new one, never a part.

    Raises:
        DiskFull: the old file is kept.
    """
    with replacing(path) as draft, draft.open("w", encoding="utf-8") as file:
        file.writelines([text] if isinstance(text, str) else text)
        file.flush()
        os.fsync(file.fileno())


def sweep_temporaries(path: Path) -> None:
    """Remove the drafts of killed writers of a file; no process may be writing it."""
    for leftover in path.parent.glob(f".{path.name}.????????"):
        leftover.unlink()


def oldest_first(paths: Iterable[Path]) -> list[Path]:
    """Return the files or folders by the time of their last change.

    Without those that another process has removed meanwhile.
    """
    times: dict[Path, float] = {}
    for path in paths:
        with suppress(FileNotFoundError):
            times[path] = path.stat().st_mtime
    return sorted(times, key=lambda path: times[path])


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_files(folder: Path) -> None:
    """Make the files directly in a folder, and their names, survive a power cut."""
    for path in folder.iterdir():
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    sync_folder(folder)


class JsonLines:
    """An append-only file of one JSON object per line, each written by a single system call."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._drop_fragment()

    def append(self, record: dict[str, object]) -> None:
        """Append one record whole or not at all; numbers must be finite.

        Raises:
            DiskFull: the file is as it was before.
        """
        line = (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode()
        with disk_errors(self.path):
            written = os.write(self._descriptor, line)
            if written < len(line):
                # The last free bytes of a disk take a part without an error.
                self._drop_fragment()
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def sync(self) -> None:
        """Make what was appended survive a power cut."""
        with disk_errors(self.path):
            os.fsync(self._descriptor)

    def _drop_fragment(self) -> None:
        """Cut off the partial line that a killed writer left."""
        size = os.fstat(self._descriptor).st_size
        end = size
        while end:
            start = max(0, end - 65_536)
            found = os.pread(self._descriptor, end - start, start).rfind(b"\n")
            end = start + found + 1
            if found >= 0:
                break
        if end < size:
            os.ftruncate(self._descriptor, end)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def read_json_lines(
    path: Path, offset: int = 0, most_bytes: int = -1
) -> tuple[list[dict[str, object]], int]:
    """Return the whole records after byte `offset`, and the offset to continue from.

    Reads at most `most_bytes`, which must be longer than any line; -1 is everything.

    Bytes after the last newline are an append in progress and are left for the next call; lines
    that are not JSON objects are skipped.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            chunk = file.read(most_bytes)
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
        """Take the lock; False when another process still holds it after `patience_seconds`.

        Always allow some: `is_locked` holds a lock for an instant.
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

    @classmethod
    def adopt(cls, path: Path, descriptor: int) -> FileLock:
        """Return the lock that the parent process took and passed on."""
        os.set_inheritable(descriptor, False)
        lock = cls(path)
        lock._descriptor = descriptor
        return lock

    def fileno(self) -> int:
        """Return the descriptor that holds the lock; a process with a copy holds it too.

        Raises:
            ValueError: the lock is not held; a fault of ours.
        """
        if self._descriptor is None:
            raise ValueError(f"{self.path.name} is not held")
        return self._descriptor

    def release(self) -> None:
        """Release the lock; safe to call twice."""
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
    """Whether a living process holds the lock at `path`."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        # A shared lock, so that concurrent readers do not take each other for the holder.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
