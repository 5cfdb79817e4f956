"""Data sets of the Hugging Face Hub: how they are named and what is recorded. Floor 1; no torch.

Fetching needs the `datasets` library and is a job of its own (`jobs/hub/fetch.py`): it stores the
rows as a file in `datasets/`, with this record beside it, and every reader then reads that file.
"""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from orpo_qlora import storage
from orpo_qlora.data.files.stored import DATA, NAME, SOURCE, folder, stored_path
from orpo_qlora.data.readers.source import FILE_BYTES
from orpo_qlora.data.wording import plural
from orpo_qlora.errors import DataError

MOST_ROWS = 2_000_000
"""Most rows fetched unless `max_rows` takes the first ones."""
MOST_BYTES = FILE_BYTES
"""Most bytes of a stored file: larger ones cannot be read."""
_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_-])?"
_ID = re.compile(rf"{_PART}/{_PART}")
_PREFIX = re.compile(r"(?:hf://|https?://(?:www\.)?(?:huggingface\.co|hf\.co)/)datasets/")
_NAME = re.compile(r"[\w.][\w. ()+,-]{0,99}")
_REVISION = re.compile(r"[\w.][\w./-]{0,199}")
_FILE_SUFFIXES = {
    ".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow", ".feather", ".gz",
    ".zip",
}  # fmt: skip


class HubRequest(BaseModel):
    """What to fetch; empty texts are the data set's defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    config: str = ""
    split: str = ""
    revision: str = ""
    """Branch, tag or commit; empty is `main`."""
    max_rows: int = 0
    """Take the first rows only; 0 is all of them, up to `MOST_ROWS`."""
    max_bytes: int = MOST_BYTES
    """Refuse a data set that is larger once stored."""


class HubSource(BaseModel):
    """Where a stored file came from; recorded with every run that is trained on it."""

    model_config = ConfigDict(frozen=True)

    id: str
    config: str
    split: str
    revision: str
    """Commit that the rows were read from."""
    max_rows: int = 0
    """Limit that was set; 0 if all rows were taken."""

    @property
    def file_name(self) -> str:
        """The stored file's name as shown to the user."""
        return f"{self.id} ({self.split}).jsonl"

    def sentence(self) -> str:
        """Return the source as a sentence."""
        some = f" The first {plural(self.max_rows, 'row')} at most." if self.max_rows else ""
        return (
            f"From the Hugging Face Hub: {self.id}, config {self.config}, split {self.split}, "
            f"revision {self.revision}.{some}"
        )


def hub_id(text: str) -> str:
    """Return the id in `owner/name`, in an address of the Hub or in `hf://datasets/owner/name`.

    Empty if the text is none of these.
    """
    rest = text.strip().rstrip("/")
    found = _PREFIX.match(rest)
    if found:
        rest = "/".join(rest[found.end() :].split("/")[:2])
    return rest if _ID.fullmatch(rest) and ".." not in rest and "--" not in rest else ""


def looks_like_id(text: str) -> bool:
    """Whether a text that is no existing file names a data set of the Hub rather than a path."""
    if _PREFIX.match(text.strip()):
        return bool(hub_id(text))
    path = Path(text)
    return bool(hub_id(text)) and path.suffix.lower() not in _FILE_SUFFIXES


def request_of(
    text: str, config: str = "", split: str = "", revision: str = "", max_rows: int = 0
) -> HubRequest:
    """Return a request made of what the user typed.

    Raises:
        DataError: a part cannot be what it should be.
    """
    found = hub_id(text)
    if not found:
        raise DataError(
            f"“{text[:100]}” is not the id of a data set on the Hub.",
            hint="Write it as owner/name, as on its page: HuggingFaceH4/ultrafeedback_binarized.",
        )
    parts = {"config": config.strip(), "split": split.strip()}
    revision = revision.strip()
    for label, value in parts.items():
        if value and not _NAME.fullmatch(value):
            raise DataError(
                f"“{value[:100]}” is not a valid {label} name.",
                hint=f"Copy the {label} from the data set's page, or leave it empty.",
            )
    if revision and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise DataError(
            f"“{revision[:100]}” is not a revision.",
            hint="Use a branch, a tag or a commit, or leave it empty for the latest.",
        )
    if max_rows < 0:
        raise DataError("The number of rows is below 0.", hint="Use 0 for all rows.")
    return HubRequest(
        id=found,
        config=parts["config"],
        split=parts["split"],
        revision=revision,
        max_rows=max_rows,
    )


def record_source(sha256: str, source: HubSource) -> None:
    """Write name and source of a stored file; call it before the file appears."""
    storage.write_whole(stored_path(sha256, NAME), source.file_name)
    storage.write_whole(stored_path(sha256, SOURCE), source.model_dump_json())


def recorded_source(path: Path) -> HubSource | None:
    """Return where a stored file came from; None for any other file."""
    if path.suffix != DATA or path.parent.resolve() != folder():
        return None
    try:
        return HubSource.model_validate_json(path.with_suffix(SOURCE).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
