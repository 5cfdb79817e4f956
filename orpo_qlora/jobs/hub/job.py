"""Request and answer of a fetch job: rows of a Hub data set, stored as a file. Floor 4; no torch.

The program is `jobs/hub/fetch.py`. The file is in the home's `datasets/` under its SHA-256; the
job's folder under `fetches/` keeps what was found: the source, its configs and splits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from orpo_qlora import storage
from orpo_qlora.data.files.hub import HubRequest, HubSource
from orpo_qlora.data.files.stored import DATA, stored_path
from orpo_qlora.jobs.job import BackgroundJob, JobPaths, JobState, hash_of, lost_card

END_SECONDS = 10.0
"""How long `cancel` waits for the program to end."""
WAIT_SECONDS = 0.1


class HubListing(BaseModel):
    """The configs of a data set and the splits of one of them, as far as known."""

    model_config = ConfigDict(frozen=True)

    configs: tuple[str, ...] = ()
    config: str = ""
    """The config that `splits` are of."""
    splits: tuple[str, ...] = ()


class HubFetched(BaseModel):
    """A fetched data set."""

    model_config = ConfigDict(frozen=True)

    source: HubSource
    sha256: str
    rows: int
    size_bytes: int
    note: str = ""
    """What the user should know, such as that the Hub could not be reached and a copy is used."""

    @property
    def path(self) -> Path:
        """The stored file."""
        return stored_path(self.sha256, DATA)


@dataclass(frozen=True)
class FetchPaths(JobPaths):
    """Files in the folder of a fetch job."""

    @property
    def listing(self) -> Path:
        """The HubListing."""
        return self.folder / "listing.json"

    @property
    def fetched(self) -> Path:
        """The HubFetched of the latest fetch that ended well."""
        return self.folder / "fetched.json"

    @property
    def cancel(self) -> Path:
        """Present once the user has cancelled."""
        return self.folder / "cancel"

    @property
    def page(self) -> Path:
        """Present if a page started the fetch, so that a page that opens follows it."""
        return self.folder / "page"

    @property
    def draft(self) -> Path:
        """The file while it is written."""
        return storage.home() / "datasets" / f".fetch-{self.folder.name}"


@dataclass(frozen=True)
class FetchAnswer:
    """What is known about a request."""

    state: JobState
    listing: HubListing
    fetched: HubFetched | None


class FetchJob(BackgroundJob[HubRequest, FetchAnswer]):
    """Fetches data sets; runs beside a training run, which it does not slow down."""

    program = "orpo_qlora.jobs.hub.fetch"
    folder_name = "fetches"
    kept = 50
    lost = lost_card(
        "The download",
        "Try again; nothing of it was kept.",
    )

    def key(self, request: HubRequest) -> str:
        """Return the hash of the request."""
        return hash_of(request)

    def paths(self, request: HubRequest) -> FetchPaths:
        """Return the files of a request's job, there or not."""
        return FetchPaths(super().paths(request).folder)

    def answer(self, request: HubRequest, state: JobState) -> FetchAnswer:
        """Return what is on disk."""
        paths = self.paths(request)
        return FetchAnswer(state, read_listing(paths), read_fetched(paths))

    def is_complete(self, request: HubRequest, answer: FetchAnswer) -> bool:
        """Whether the latest fetch ended well and its file is still stored."""
        return answer.state.status == "done" and answer.fetched is not None

    def discard(self, request: HubRequest) -> None:
        """Forget who started and cancelled it before; what was fetched is kept."""
        self.paths(request).cancel.unlink(missing_ok=True)
        self.paths(request).page.unlink(missing_ok=True)

    def cancel(self, request: HubRequest) -> None:
        """End a fetch and wait for its program; nothing of it is kept."""
        if not self.read(request).state.is_busy:
            return
        self.paths(request).cancel.touch(mode=0o600)
        deadline = time.monotonic() + END_SECONDS
        while self.read(request).state.is_busy and time.monotonic() < deadline:
            time.sleep(WAIT_SECONDS)

    def busy_for_page(self) -> HubRequest | None:
        """Return the request of the fetch at work that a page started last, None without one."""
        for folder in reversed(storage.oldest_first(self.folder().iterdir())):
            try:
                request = HubRequest.model_validate_json(FetchPaths(folder).request.read_bytes())
            except (FileNotFoundError, NotADirectoryError, ValidationError):
                continue
            if FetchPaths(folder).page.exists() and self.read(request).state.is_busy:
                return request
        return None


JOB = FetchJob()


def read_listing(paths: FetchPaths) -> HubListing:
    """Return the configs and splits found so far."""
    try:
        return HubListing.model_validate_json(paths.listing.read_bytes())
    except FileNotFoundError:
        return HubListing()


def read_fetched(paths: FetchPaths) -> HubFetched | None:
    """Return the latest fetch whose file is still stored."""
    try:
        fetched = HubFetched.model_validate_json(paths.fetched.read_bytes())
    except FileNotFoundError:
        return None
    return fetched if fetched.path.is_file() else None


def fetch(request: HubRequest, on_progress: Callable[[JobState], None]) -> HubFetched:
    """Return a data set, fetched unless its current revision is stored already.

    Raises:
        DataError: the id, config, split or revision does not exist or cannot be used.
        DiskFull: nothing is stored.
        OrpoQloraError: the Hub cannot be reached, or what `BackgroundJob.wait` raises.
    """
    try:
        answer = JOB.wait(request, on_progress, again=True)
    except KeyboardInterrupt:
        JOB.cancel(request)
        raise
    if answer.fetched is None:
        raise ValueError("a complete answer has a file")
    return answer.fetched
