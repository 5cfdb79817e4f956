"""The home's `datasets/` folder: each file under its own SHA-256, so nothing else is needed later.

Floor 5; page process. A dataset's id is that SHA-256; the page's address carries it.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from functools import lru_cache
from pathlib import Path

from orpo_qlora import storage
from orpo_qlora.config import TrainConfig
from orpo_qlora.data.pairs import Dataset, load_dataset
from orpo_qlora.errors import DataError
from orpo_qlora.runs.lengths import ProbeRequest

DATASET_ID = re.compile(r"^[0-9a-f]{64}$")


def keep_dataset(path: Path, source: str) -> str:
    """Copy a preference file into the home and return its id.

    Raises:
        DataError: the file cannot be used; nothing is kept.
        DiskFull: nothing is kept.
    """
    folder = storage.home() / "datasets"
    draft = folder / f".draft-{uuid.uuid4().hex[:8]}"
    with storage.disk_errors(draft):
        try:
            _copy_private(path, draft)
            dataset = load_dataset(draft, source)
            dataset_id = dataset.report.sha256
            storage.write_whole(folder / f"{dataset_id}.name", source)
            draft.replace(folder / f"{dataset_id}.csv")
        finally:
            draft.unlink(missing_ok=True)
    return dataset_id


def _copy_private(path: Path, target: Path) -> None:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with path.open("rb") as source, os.fdopen(descriptor, "wb") as copy:
        shutil.copyfileobj(source, copy)


def open_dataset(dataset_id: str) -> Dataset:
    """Return the pairs and the account of a kept file.

    Raises:
        DataError: it is not there any more.
    """
    folder = storage.home() / "datasets"
    path = folder / f"{dataset_id}.csv"
    if not DATASET_ID.match(dataset_id) or not path.is_file():
        raise DataError(
            "The preference file in this page's address is not stored here any more.",
            hint="Upload it again, or choose an example.",
        )
    source = (folder / f"{dataset_id}.name").read_text(encoding="utf-8")
    return _load(path, source)


def probe_request(dataset_id: str, config: TrainConfig, rows: tuple[int, ...]) -> ProbeRequest:
    """Return the question about a kept file's tokens under the model of these settings.

    Raises:
        DataError: it is not there any more.
    """
    report = open_dataset(dataset_id).report
    return ProbeRequest(
        path=str(storage.home() / "datasets" / f"{dataset_id}.csv"),
        source=report.source,
        sha256=dataset_id,
        choices=report.choices,
        model=config.model,
        revision=config.revision,
        rows=rows,
    )


@lru_cache(maxsize=4)
def _load(path: Path, source: str) -> Dataset:
    # The name of the file is its content's SHA-256, so what was read once stays true.
    return load_dataset(path, source)
