"""Uploaded files in the home's `datasets/` folder, each named by its SHA-256.

That SHA-256 is the dataset's id, which the page's address carries. The user's choices about a file
are stored next to it, so that every page and every reload reads it the same way.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from orpo_qlora import storage
from orpo_qlora.config import TrainConfig
from orpo_qlora.data.choices import ReadChoices
from orpo_qlora.data.pairs import PreferenceData, load_preferences
from orpo_qlora.data.stored import DATA, NAME, check_room
from orpo_qlora.errors import BrokenRows, DataError, NeedsColumns, NeedsEncoding
from orpo_qlora.jobs.token_counts import TokenizeRequest, request_of

DATASET_ID = re.compile(r"[0-9a-f]{64}")
CHOICES = ".choices.json"
"""Suffix of the user's choices, stored beside the file."""
CACHED_FILES = 4
QUESTIONS = (NeedsEncoding, NeedsColumns, BrokenRows)
"""Errors that the user resolves on the page; a file that raises one is stored anyway."""

Progress = Callable[[float], None]
_reading = threading.Lock()
_cache: OrderedDict[tuple[str, str, ReadChoices], PreferenceData | DataError] = OrderedDict()


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
        if report.is_remembered:
            # Stored with the file, so that a later choice for another file does not change it.
            choices = report.choices.model_copy(update={"mapping": report.mapping})
            choose(dataset_id, choices)
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
    """Whether a file with that id is stored; false for anything that is not an id."""
    return bool(DATASET_ID.fullmatch(dataset_id)) and _path(dataset_id, DATA).is_file()


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
    source, choices = source_of(dataset_id), choices_of(dataset_id)
    key = (dataset_id, source, choices)
    # One at a time: the page opens the same file from several handlers at once.
    with _reading:
        if key not in _cache:
            # The file is named by its SHA-256, so its content under this key never changes.
            _cache[key] = _load(data_file(dataset_id), source, choices, progress)
            while len(_cache) > CACHED_FILES:
                _cache.popitem(last=False)
        _cache.move_to_end(key)
        found = _cache[key]
    if isinstance(found, DataError):
        raise found
    return found


def _load(
    path: Path, source: str, choices: ReadChoices, progress: Progress | None
) -> PreferenceData | DataError:
    try:
        return load_preferences(path, source, choices, progress)
    except DataError as error:
        return error.with_traceback(None)


def source_of(dataset_id: str) -> str:
    """Return the name under which the user uploaded a file.

    Raises:
        DataError: it is not stored.
    """
    check_stored(dataset_id)
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
        for key in [key for key in _cache if key[0] == dataset_id]:
            del _cache[key]


def tokenize_request(
    dataset_id: str, config: TrainConfig, rows: tuple[int, ...]
) -> TokenizeRequest:
    """Return the request to count a stored file's tokens with the model of these settings.

    Raises:
        DataError: it is not stored.
    """
    return request_of(data_file(dataset_id), open_upload(dataset_id).report, config, rows)
