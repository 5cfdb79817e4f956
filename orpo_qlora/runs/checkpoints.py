"""Checkpoints of a run: written atomically and verified before use. Floor 3; no torch.

A checkpoint is filled under another name, synced, listed in its manifest and then renamed to
`step-N`. N alone decides which one is newest, never clocks or file times.
"""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from orpo_qlora import storage
from orpo_qlora.errors import CheckpointError
from orpo_qlora.runs.identity import Identity, differences

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
KEPT = 2
"""A newer checkpoint replaces an older one only once this many others are good."""
_FOLDER = re.compile(r"^step-(\d+)$")
_LEFTOVER = ".draft-"


class FileFacts(BaseModel):
    """What a file must be to count as undamaged."""

    model_config = ConfigDict(frozen=True)

    size_bytes: int
    sha256: str


class Manifest(BaseModel):
    """The list of a checkpoint's files, written after all of them."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = SCHEMA_VERSION
    step: int
    identity: Identity
    files: dict[str, FileFacts]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been examined."""

    folder: Path
    manifest: Manifest

    @property
    def step(self) -> int:
        """Optimizer steps taken when it was written."""
        return self.manifest.step


@dataclass(frozen=True)
class Found:
    """The newest good checkpoint, and why newer ones were skipped."""

    newest: Checkpoint | None
    damaged: tuple[str, ...]


def save_checkpoint(
    folder: Path, step: int, identity: Identity, write: Callable[[Path], None]
) -> Checkpoint:
    """Write a checkpoint of `step` and remove the ones it makes superfluous.

    Args:
        folder: holds all checkpoints of a run; made if missing.
        step: optimizer steps taken.
        identity: what it may be resumed with.
        write: fills a folder with files.

    Raises:
        DiskFull: earlier checkpoints are as they were.
    """
    final = folder / f"step-{step}"
    draft = folder / f"{_LEFTOVER}{uuid.uuid4().hex[:8]}"
    with storage.disk_errors(final):
        folder.mkdir(mode=0o700, exist_ok=True)
        try:
            draft.mkdir(mode=0o700)
            write(draft)
            storage.sync_files(draft)
            manifest = Manifest(step=step, identity=identity, files=_facts(draft))
            storage.write_whole(draft / MANIFEST, manifest.model_dump_json(indent=1))
            if final.exists():
                _discard(final)  # damaged, or this step would not have been trained again
            draft.rename(final)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        storage.sync_folder(folder)
        _rotate(folder)
    return Checkpoint(final, manifest)


def _facts(folder: Path) -> dict[str, FileFacts]:
    return {
        path.name: FileFacts(size_bytes=path.stat().st_size, sha256=storage.sha256_of(path))
        for path in sorted(folder.iterdir())
    }


def _rotate(folder: Path) -> None:
    """Remove checkpoints older than the newest `KEPT` good ones."""
    good = 0
    for path in _newest_first(folder):
        if good == KEPT:
            _discard(path)
        else:
            good += _is_good(path)


def _is_good(path: Path) -> bool:
    try:
        examine(path)
    except CheckpointError:
        return False
    return True


def _discard(path: Path) -> None:
    """Remove a checkpoint; what an interruption leaves is removed by `sweep`."""
    leftover = path.with_name(f"{_LEFTOVER}{uuid.uuid4().hex[:8]}")
    path.rename(leftover)
    shutil.rmtree(leftover, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what writers that died left behind; the caller holds the run's lock."""
    if folder.is_dir():
        for path in folder.iterdir():
            if path.name.startswith(_LEFTOVER):
                shutil.rmtree(path, ignore_errors=True)


def discard_all(folder: Path) -> None:
    """Remove every checkpoint, newest last."""
    for path in reversed(_newest_first(folder)):
        _discard(path)


def _newest_first(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    steps = {path: match for path in folder.iterdir() if (match := _FOLDER.match(path.name))}
    return sorted(steps, key=lambda path: int(steps[path][1]), reverse=True)


def find_checkpoint(folder: Path, *, read_everything: bool = True) -> Found:
    """Return the newest good checkpoint and the reasons against newer ones.

    Args:
        folder: holds all checkpoints of a run; may be missing.
        read_everything: compare checksums too; without, names and sizes, which is quick.
    """
    damaged: list[str] = []
    for path in _newest_first(folder):
        try:
            return Found(examine(path, read_everything=read_everything), tuple(damaged))
        except CheckpointError as exc:
            damaged.append(exc.message)
    return Found(None, tuple(damaged))


def refuse_foreign(found: Found, identity: Identity) -> None:
    """Refuse to resume from nothing usable, or with other settings, pairs or base.

    Raises:
        CheckpointError: lists every reason.
    """
    if found.newest is None and found.damaged:
        raise CheckpointError(
            f"No checkpoint can be used. {' '.join(found.damaged)}",
            hint="Start the run over: orpo-qlora resume RUN --from-start.",
        )
    changes = differences(found.newest.manifest.identity, identity) if found.newest else []
    if changes:
        raise CheckpointError(
            f"The checkpoint belongs to another training: {'; '.join(changes)}.",
            hint="Undo the changes, or start a new run with them.",
        )


def examine(path: Path, *, read_everything: bool = True) -> Checkpoint:
    """Return a checkpoint whose files match its manifest.

    Raises:
        CheckpointError: names the first file that is not.
    """
    manifest = _read_manifest(path)
    for name, facts in manifest.files.items():
        problem = _problem(path / name, facts, read_everything=read_everything)
        if problem:
            raise CheckpointError(f"{path.name}: {name} {problem}.", where=str(path))
    if path.name != f"step-{manifest.step}":
        raise CheckpointError(
            f"The manifest of {path.name} names step {manifest.step}.", where=str(path)
        )
    return Checkpoint(path, manifest)


def _read_manifest(path: Path) -> Manifest:
    try:
        manifest = Manifest.model_validate_json((path / MANIFEST).read_bytes())
    except OSError as exc:
        raise CheckpointError(
            f"{path.name}: {MANIFEST} cannot be read ({exc.strerror}).", where=str(path)
        ) from exc
    except ValidationError as exc:
        raise CheckpointError(f"{path.name}: {MANIFEST} is damaged.", where=str(path)) from exc
    if manifest.schema_version != SCHEMA_VERSION:
        raise CheckpointError(
            f"{path.name} was written by another version of this program.", where=str(path)
        )
    return manifest


def _problem(path: Path, facts: FileFacts, *, read_everything: bool) -> str:
    try:
        size_bytes = path.stat().st_size
        if size_bytes != facts.size_bytes:
            return f"has {size_bytes:,} bytes instead of {facts.size_bytes:,}"
        if read_everything and storage.sha256_of(path) != facts.sha256:
            return "differs from its checksum"
    except OSError as exc:
        return f"cannot be read ({exc.strerror})"
    return ""
