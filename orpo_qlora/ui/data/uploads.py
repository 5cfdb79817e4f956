"""Uploaded files in the home's `datasets/` folder, each named by its SHA-256.

That SHA-256 is the dataset's id, which the page's address carries. The user's choices about a file
are stored next to it, so that every page and every reload reads it the same way. Several files are
one dataset, whose id is the SHA-256 of theirs; its list of files is stored under that id.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from orpo_qlora import storage
from orpo_qlora.config import TrainConfig
from orpo_qlora.data.files.choices import ReadChoices
from orpo_qlora.data.files.combine import load_files, pinned_choices, progress_part
from orpo_qlora.data.files.sources import ALL, FileSet, Quota, SourceFile, joined_name
from orpo_qlora.data.files.stored import DATA, NAME, check_room
from orpo_qlora.data.pairs import PreferenceData
from orpo_qlora.errors import (
    BrokenRows,
    DataError,
    InputError,
    NeedsColumns,
    NeedsEncoding,
)
from orpo_qlora.jobs.token_counts import TokenizeRequest, request_of
from orpo_qlora.methods import method_of

DATASET_ID = re.compile(r"[0-9a-f]{64}")
CHOICES, SET = ".choices.json", ".set.json"
"""Suffixes of what is stored beside the files: the user's choices, and a data set of several."""
CACHED_DATASETS = 8
QUESTIONS = (NeedsEncoding, NeedsColumns, BrokenRows)
"""Errors that the user resolves on the page; a file that raises one is stored anyway."""

Progress = Callable[[float], None]
_reading = threading.RLock()
_cache: OrderedDict[FileSet, PreferenceData | DataError] = OrderedDict()


class StoredFile(BaseModel):
    """One file of a dataset of several."""

    model_config = ConfigDict(frozen=True)

    id: str
    quota: Quota = ALL


class StoredSet(BaseModel):
    """The files of a dataset of several."""

    model_config = ConfigDict(frozen=True)

    files: tuple[StoredFile, ...]
    sample_seed: int = 0
    fixes: tuple[str, ...] = ()
    """Fixes across files."""


def store_upload(path: Path, source: str, progress: Progress | None = None) -> str:
    """Copy a preference file into the home and return its id.

    A file that raises one of `QUESTIONS` is stored too; `open_upload` raises it again.

    Raises:
        DataError: the file cannot be used; nothing is stored.
        DiskFull: the disk is full or the limit for uploads is reached; nothing is stored.
    """
    check_room(path.stat().st_size)
    draft = _folder() / f".draft-{uuid.uuid4().hex[:8]}"
    with storage.disk_errors(draft):
        try:
            _copy_private(path, draft)
            dataset_id = storage.sha256_of(draft)
            is_new = not is_stored(dataset_id)
            storage.write_whole(_path(dataset_id, NAME), source)
            draft.replace(_path(dataset_id, DATA))
        finally:
            draft.unlink(missing_ok=True)
    try:
        _drop_cached(dataset_id)
        report = open_upload(dataset_id, progress).report
        if report.is_remembered or report.is_ranking_remembered:
            # Stored with the file, so that a later choice for another file does not change it.
            choose(dataset_id, pinned_choices(report))
    except QUESTIONS:
        pass  # the page opens the file next and shows the question
    except DataError:
        if is_new:
            for ending in (DATA, NAME, CHOICES):
                _path(dataset_id, ending).unlink(missing_ok=True)
        raise
    return dataset_id


def _folder() -> Path:
    return storage.home() / "datasets"


def _path(dataset_id: str, ending: str) -> Path:
    """Return a path for an id; an id from the browser passes `check_stored` first."""
    return _folder() / f"{dataset_id}{ending}"


def is_stored(dataset_id: str) -> bool:
    """Whether a dataset with that id is stored; false for anything that is not an id."""
    if not DATASET_ID.fullmatch(dataset_id):
        return False
    return _path(dataset_id, DATA).is_file() or _path(dataset_id, SET).is_file()


def store_files(paths: Sequence[Path], progress: Progress | None = None) -> str:
    """Copy preference files into the home and return the id of the dataset that they are.

    Raises:
        InputError: two of the files have the same content.
        DataError: a file cannot be used.
        DiskFull: the disk is full or the limit for uploads is reached.
    """
    ids = [
        store_upload(path, path.name, progress_part(progress, place, len(paths)))
        for place, path in enumerate(paths)
    ]
    if len(ids) == 1:
        return ids[0]
    files = tuple(StoredFile(id=one) for one in ids)
    known = set_of(id_of_set(ids)) if is_stored(id_of_set(ids)) else None
    return store_set(known or StoredSet(files=files))


def id_of_set(ids: Sequence[str]) -> str:
    """Return the id of a dataset of several files, which is also the SHA-256 in its summary."""
    return hashlib.sha256("".join(f"{one}\n" for one in ids).encode()).hexdigest()


def store_set(chosen: StoredSet) -> str:
    """Store which files are one dataset, with the share or cap of each; return its id.

    Raises:
        InputError: two of the files have the same content.
    """
    ids = [file.id for file in chosen.files]
    for place, one in enumerate(ids):
        if one in ids[:place]:
            raise InputError(
                f"Two files have the same content; one of them is {source_of(one)}.",
                hint="Upload each file once.",
            )
    dataset_id = id_of_set(ids)
    storage.write_whole(_path(dataset_id, SET), chosen.model_dump_json())
    return dataset_id


def set_of(dataset_id: str) -> StoredSet | None:
    """Return the files of a dataset of several, None for a single file.

    Raises:
        DataError: it is not stored, or one of its files no longer is.
    """
    check_stored(dataset_id)
    try:
        found = StoredSet.model_validate_json(_path(dataset_id, SET).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    for file in found.files:
        check_stored(file.id)
    return found


def shown_file(dataset_id: str, shown: object) -> str:
    """Return the id of the file that the page shows of a dataset, or of the dataset itself."""
    several = set_of(dataset_id)
    ids = [file.id for file in several.files] if several else []
    if len(ids) == 1:
        return ids[0]
    return shown if isinstance(shown, str) and shown in ids else dataset_id


def files_for(dataset_id: str, config: TrainConfig) -> FileSet:
    """Return the files as a run with these settings reads them.

    A method that trains on single responses reads labelled rows as such unless pairs were chosen.

    Raises:
        DataError: the dataset is not stored.
    """
    files = files_of(dataset_id)
    return files.with_labelled("single") if method_of(config).takes_single else files


def open_for(dataset_id: str, config: TrainConfig) -> PreferenceData:
    """Return the pairs and the summary for a run with these settings; see `files_for`.

    Raises what `open_upload` does.
    """
    return _opened(files_for(dataset_id, config), None)


def files_of(dataset_id: str) -> FileSet:
    """Return the files of a dataset and how each is read.

    Raises:
        DataError: it is not stored.
    """
    several = set_of(dataset_id)
    if several is None:
        path, choices = data_file(dataset_id), choices_of(dataset_id)
        return FileSet.of_file(path, source_of(dataset_id), choices)
    files = tuple(
        SourceFile(
            path=str(data_file(file.id)),
            source=source_of(file.id),
            choices=choices_of(file.id),
            quota=file.quota,
        )
        for file in several.files
    )
    return FileSet(files=files, sample_seed=several.sample_seed, fixes=several.fixes)


def check_stored(dataset_id: str) -> None:
    """Check an id from the browser before a path is built from it.

    Raises:
        DataError: no file with that id is stored.
    """
    if not is_stored(dataset_id):
        raise DataError(
            "The preference file in this page's address is not stored here.",
            hint="Upload it again, or choose an example.",
        )


def data_file(dataset_id: str) -> Path:
    """Return the path of a stored file; its format is detected from the content, not the name.

    Raises:
        DataError: it is not stored.
    """
    check_stored(dataset_id)
    return _path(dataset_id, DATA)


def _copy_private(path: Path, target: Path) -> None:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with path.open("rb") as source, os.fdopen(descriptor, "wb") as copy:
        shutil.copyfileobj(source, copy)


def open_upload(dataset_id: str, progress: Progress | None = None) -> PreferenceData:
    """Return the pairs and the summary of a stored file, read with the user's choices.

    Raises:
        DataError: it is not stored, cannot be used, or raises one of `QUESTIONS`.
    """
    return _opened(files_of(dataset_id), progress)


def _opened(files: FileSet, progress: Progress | None) -> PreferenceData:
    # One at a time: the page opens the same file from several handlers at once.
    with _reading:
        if files not in _cache:
            # A file is named by its SHA-256, so its content under this key never changes.
            _cache[files] = _load(files, progress)
            while len(_cache) > CACHED_DATASETS:
                _cache.popitem(last=False)
        _cache.move_to_end(files)
        found = _cache[files]
    if isinstance(found, DataError):
        raise found
    return found


def _load(files: FileSet, progress: Progress | None) -> PreferenceData | DataError:
    def read(file: SourceFile, progress: Progress | None) -> PreferenceData:
        return _opened(FileSet(files=(file.model_copy(update={"quota": ALL}),)), progress)

    try:
        return load_files(files, progress, read=None if files.is_one_file else read)
    except DataError as error:
        return error.with_traceback(None)


def source_of(dataset_id: str) -> str:
    """Return the name under which the user uploaded a file.

    Raises:
        DataError: it is not stored.
    """
    several = set_of(dataset_id)
    if several is not None:
        return joined_name([source_of(file.id) for file in several.files])
    return _path(dataset_id, NAME).read_text(encoding="utf-8")


def choices_of(dataset_id: str) -> ReadChoices:
    """Return the user's choices about a stored file; the defaults if there are none.

    Raises:
        DataError: it is not stored.
    """
    check_stored(dataset_id)
    try:
        return ReadChoices.model_validate_json(_path(dataset_id, CHOICES).read_bytes())
    except (FileNotFoundError, ValidationError):
        return ReadChoices()  # also if another version wrote choices that this one does not know


def choose(dataset_id: str, choices: ReadChoices) -> None:
    """Store the user's choices about a file; `open_upload` uses them from now on.

    Raises:
        DataError: it is not stored; nothing is written.
    """
    check_stored(dataset_id)
    storage.write_whole(_path(dataset_id, CHOICES), choices.model_dump_json())
    _drop_cached(dataset_id)


def forget(dataset_id: str) -> None:
    """Read a stored file again the next time, because its name or its source has changed."""
    _drop_cached(dataset_id)


def _drop_cached(dataset_id: str) -> None:
    # Also with the same choices: the columns remembered for its header may have changed.
    with _reading:
        path = str(_path(dataset_id, DATA))
        for files in [one for one in _cache if any(file.path == path for file in one.files)]:
            del _cache[files]


def tokenize_request(
    dataset_id: str, config: TrainConfig, rows: tuple[int, ...]
) -> TokenizeRequest:
    """Return the request to count a stored file's tokens with the model of these settings.

    Raises:
        DataError: it is not stored.
    """
    return request_of(files_of(dataset_id), open_upload(dataset_id).report, config, rows)
