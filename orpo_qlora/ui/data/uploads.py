"""The home's `datasets/` folder: each file under its own SHA-256, so nothing else is needed later.

Floor 5; page process. A dataset's id is that SHA-256; the page's address carries it. What the
person decided about a file stands beside it, so every page, and a reload, reads it alike.
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
from orpo_qlora.errors import BrokenRows, DataError, DiskFull, NeedsColumns, NeedsEncoding
from orpo_qlora.jobs.token_counts import TokenizeRequest, request_of

KEPT_BYTES = 32 * 1024**3
"""What all kept files may take together; whoever may upload shall not fill the disk with them."""
FREE_BYTES = 1024**3
"""What the disk keeps for runs."""
DATASET_ID = re.compile(r"[0-9a-f]{64}")
DATA, NAME, CHOICES = ".data", ".name", ".choices.json"
"""Endings of what stands in the folder under one id."""
OPEN_AT_ONCE = 4
QUESTIONS = (NeedsEncoding, NeedsColumns, BrokenRows)
"""Errors that the person can answer; a file that raises one is kept for the answer."""

Progress = Callable[[float], None]
_reading = threading.Lock()
_opened: OrderedDict[tuple[str, str, ReadChoices], PreferenceData | DataError] = OrderedDict()


def keep_dataset(path: Path, source: str, progress: Progress | None = None) -> str:
    """Copy a preference file into the home and return its id.

    A file that waits for an answer of the person is kept too; `open_dataset` asks then.

    Raises:
        DataError: the file cannot be used; nothing is kept.
        DiskFull: the disk, or what files may take of it, is used up; nothing is kept.
    """
    _check_room(path)
    draft = _folder() / f".draft-{uuid.uuid4().hex[:8]}"
    with storage.disk_errors(draft):
        try:
            _copy_private(path, draft)
            dataset_id = storage.sha256_of(draft)
            is_new = not is_kept(dataset_id)
            storage.write_whole(_path(dataset_id, NAME), source)
            draft.replace(_path(dataset_id, DATA))
        finally:
            draft.unlink(missing_ok=True)
    try:
        _forget_reading(dataset_id)
        report = open_dataset(dataset_id, progress).report
        if report.is_remembered:
            # Written down, so that a later choice for another file does not change this one.
            choices = report.choices.model_copy(update={"mapping": report.mapping})
            choose(dataset_id, choices)
    except QUESTIONS:
        pass  # asked on the page, where the file is opened next
    except DataError:
        if is_new:
            for ending in (DATA, NAME, CHOICES):
                _path(dataset_id, ending).unlink(missing_ok=True)
        raise
    return dataset_id


def _check_room(path: Path) -> None:
    """Refuse a file that would fill what kept files may take, or the disk."""
    folder, size = _folder(), path.stat().st_size
    kept = sum(file.stat().st_size for file in folder.glob(f"*{DATA}"))
    if kept + size > KEPT_BYTES:
        raise DiskFull(
            f"The kept preference files take {kept / 1e9:,.1f} of the {KEPT_BYTES / 1e9:,.1f} GB "
            f"they may, and this one has {size / 1e9:,.1f} GB.",
            hint=f"Delete files you no longer need from {folder}.",
        )
    free = shutil.disk_usage(folder).free
    if free - size < FREE_BYTES:
        raise DiskFull(
            f"The disk has {free / 1e9:,.1f} GB free, and this file takes {size / 1e9:,.1f} GB.",
            hint=f"Free some space; {FREE_BYTES / 1e9:,.1f} GB stay free for runs.",
        )


def _folder() -> Path:
    return storage.home() / "datasets"


def _path(dataset_id: str, ending: str) -> Path:
    """Return a path made of an id; `check_kept` comes before for an id from elsewhere."""
    return _folder() / f"{dataset_id}{ending}"


def is_kept(dataset_id: str) -> bool:
    """Whether a file with that id is here."""
    return bool(DATASET_ID.fullmatch(dataset_id)) and _path(dataset_id, DATA).is_file()


def check_kept(dataset_id: str) -> None:
    """Make sure that what a browser calls an id is one, before a path is made of it.

    Raises:
        DataError: no file of that id is here.
    """
    if not is_kept(dataset_id):
        raise DataError(
            "The preference file in this page's address is not stored here any more.",
            hint="Upload it again, or choose an example.",
        )


def data_file(dataset_id: str) -> Path:
    """Return where a kept file is; its format is told by content, so the name says nothing.

    Raises:
        DataError: it is not there any more.
    """
    check_kept(dataset_id)
    return _path(dataset_id, DATA)


def _copy_private(path: Path, target: Path) -> None:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with path.open("rb") as source, os.fdopen(descriptor, "wb") as copy:
        shutil.copyfileobj(source, copy)


def open_dataset(dataset_id: str, progress: Progress | None = None) -> PreferenceData:
    """Return the pairs and the account of a kept file, read as the person chose.

    Raises:
        DataError: it is not there any more, cannot be used, or asks one of `QUESTIONS`.
    """
    source, choices = source_of(dataset_id), choices_of(dataset_id)
    key = (dataset_id, source, choices)
    # One at a time: a page asks for the same file in several places at once.
    with _reading:
        if key not in _opened:
            # The name of the file is its content's SHA-256, so what was read once stays true.
            _opened[key] = _load(data_file(dataset_id), source, choices, progress)
            while len(_opened) > OPEN_AT_ONCE:
                _opened.popitem(last=False)
        _opened.move_to_end(key)
        found = _opened[key]
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
    """Return the name by which the person knows a kept file.

    Raises:
        DataError: it is not there any more.
    """
    check_kept(dataset_id)
    return _path(dataset_id, NAME).read_text(encoding="utf-8")


def choices_of(dataset_id: str) -> ReadChoices:
    """Return what the person decided about a kept file.

    Raises:
        DataError: it is not there any more.
    """
    check_kept(dataset_id)
    try:
        return ReadChoices.model_validate_json(_path(dataset_id, CHOICES).read_bytes())
    except (FileNotFoundError, ValidationError):
        return ReadChoices()  # also after a version that knew other choices


def choose(dataset_id: str, choices: ReadChoices) -> None:
    """Record what the person decided about a kept file; it is read so from now on.

    Raises:
        DataError: it is not there any more; nothing is written.
    """
    check_kept(dataset_id)
    storage.write_whole(_path(dataset_id, CHOICES), choices.model_dump_json())
    _forget_reading(dataset_id)


def _forget_reading(dataset_id: str) -> None:
    # Which columns are remembered for its shape may have changed as well.
    with _reading:
        for key in [key for key in _opened if key[0] == dataset_id]:
            del _opened[key]


def tokenize_request(
    dataset_id: str, config: TrainConfig, rows: tuple[int, ...]
) -> TokenizeRequest:
    """Return the question about a kept file's tokens under the model of these settings.

    Raises:
        DataError: it is not there any more.
    """
    return request_of(data_file(dataset_id), open_dataset(dataset_id).report, config, rows)
