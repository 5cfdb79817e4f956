"""The program of a fetch job: `python -m orpo_qlora.jobs.hub.fetch FOLDER`. Floor 4.

Streams the rows of one split into a file of JSON lines, which appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from orpo_qlora import storage
from orpo_qlora.data.files import hub, stored
from orpo_qlora.data.files.hub import MOST_ROWS, HubRequest, HubSource
from orpo_qlora.data.wording import in_bytes, listed, plural
from orpo_qlora.errors import DataError, OrpoQloraError
from orpo_qlora.jobs.hub.job import FetchPaths, HubFetched, HubListing, read_fetched
from orpo_qlora.jobs.job import JobProgram, run_job

if TYPE_CHECKING:
    from orpo_qlora.jobs.hub.repositories import Repository, Rows

REPORT_SECONDS = 0.5
ROOM_SECONDS = 2.0
"""How often the free disk space is checked."""
POLL_SECONDS = 0.2
ENVIRONMENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    # `datasets` would import torch to stream rows: ten seconds on a busy machine.
    "USE_TORCH": "0",
    "USE_TF": "0",
    "USE_JAX": "0",
}
"""For the libraries of the Hub; they read it as they are imported."""
HTTP_LOGGERS = ("httpx", "httpx2")
"""They log addresses, which may be signed."""


class FetchProgram(JobProgram):
    """Fetches what the request of one folder asks for."""

    def __init__(self, paths: FetchPaths) -> None:
        super().__init__(paths)
        self.paths = paths
        self._ending = threading.Lock()
        """Held while the file gets its name: a cancellation comes before or after."""

    def run(self) -> None:
        """Fetch the rows, unless those of the same commit are stored already."""
        request = HubRequest.model_validate_json(self.paths.request.read_bytes())
        _sweep_drafts(self.paths)
        self.report("asking the Hub")
        threading.Thread(target=self._watch_for_cancel, daemon=True).start()
        os.chdir(self.paths.folder)
        os.environ.update(ENVIRONMENT)
        for name in HTTP_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        from orpo_qlora.jobs.hub import errors, repositories

        known = read_fetched(self.paths)
        try:
            with errors.translated(request):
                repository = repositories.open_repository(request)
        except errors.HubUnreachable as exc:
            if known is None:
                raise
            self._keep(known, f"{exc.message} The rows fetched earlier are used.")
            return
        if known is not None and known.source.revision == repository.revision:
            self._keep(known, "")
            return
        with errors.translated(request):
            rows = self._open(request, repository)
            self._fetch(request, repository, rows)

    def _open(self, request: HubRequest, repository: Repository) -> Rows:
        from orpo_qlora.jobs.hub import repositories

        self.report("listing its files")
        listing = repositories.configs_of(repository)
        self._write_listing(listing)
        config = repositories.open_config(repository, listing, request)
        listing = HubListing(
            configs=listing.configs, config=config.name, splits=tuple(config.streams)
        )
        self._write_listing(listing)
        split = request.split or config.default_split
        if split not in listing.splits:
            raise _no_split(request, listing)
        rows = config.rows(split)
        _refuse_large(request, rows)
        return rows

    def _write_listing(self, listing: HubListing) -> None:
        storage.write_whole(self.paths.listing, listing.model_dump_json())

    def _fetch(self, request: HubRequest, repository: Repository, rows: Rows) -> None:
        source = HubSource(
            id=request.id,
            config=rows.config,
            split=rows.split,
            revision=repository.revision,
            max_rows=request.max_rows,
        )
        stored.check_room(0 if request.max_rows else rows.file_bytes)
        draft = self.paths.draft
        with storage.disk_errors(draft), _draft_file(draft) as file:
            written = self._write(file, rows, request)
            with self._ending:
                hub.record_source(written.sha256, source)  # before its file appears
                draft.replace(stored.stored_path(written.sha256, stored.DATA))
                storage.sync_folder(stored.folder())
                self._keep(written.model_copy(update={"source": source}), "")

    def _write(self, file: BinaryIO, rows: Rows, request: HubRequest) -> HubFetched:
        """Write the rows as JSON lines and return what was written."""
        digest, count, size = hashlib.sha256(), 0, 0
        limit = request.max_rows or MOST_ROWS
        total = min(rows.count, limit) if rows.count else request.max_rows
        self.report("fetching rows", total=total)
        checked_at = time.monotonic()
        for row in islice(rows, request.max_rows or None):
            line = (json.dumps(row, ensure_ascii=False) + "\n").encode()
            count, size = count + 1, size + len(line)
            _refuse_over(request, count, size)
            file.write(line)
            digest.update(line)
            now = time.monotonic()
            if now - self.reported_at > REPORT_SECONDS:
                self.report(f"fetching rows, {in_bytes(size)}", done=count)
            if now - checked_at > ROOM_SECONDS:
                checked_at = now
                stored.check_room(0)
        if not count:
            raise DataError(
                f"Split {rows.split} of {request.id} has no rows.", hint="Choose another split."
            )
        file.flush()
        os.fsync(file.fileno())
        unknown = HubSource(id=request.id, config="", split="", revision="")
        return HubFetched(source=unknown, sha256=digest.hexdigest(), rows=count, size_bytes=size)

    def _keep(self, fetched: HubFetched, note: str) -> None:
        fetched = fetched.model_copy(update={"note": note})
        # The same rows may have been fetched from elsewhere since.
        hub.record_source(fetched.sha256, fetched.source)
        storage.write_whole(self.paths.fetched, fetched.model_dump_json())
        self.report("done", status="done", done=fetched.rows, total=fetched.rows)

    def _watch_for_cancel(self) -> None:
        """End the program once the user has cancelled, also while it waits for the network."""
        while self.state.is_busy:
            if self.paths.cancel.exists():
                with self._ending:
                    if not self.state.is_busy:
                        return
                    self.paths.draft.unlink(missing_ok=True)
                    self.fail(OrpoQloraError("The download was cancelled; nothing was kept."))
                    os._exit(1)
            time.sleep(POLL_SECONDS)


@contextmanager
def _draft_file(draft: Path) -> Iterator[BinaryIO]:
    """Yield a private file to write; it is gone afterwards unless it was renamed."""
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
    finally:
        draft.unlink(missing_ok=True)


def _sweep_drafts(paths: FetchPaths) -> None:
    """Remove the drafts of fetches that were killed."""
    for draft in stored.folder().glob(".fetch-*"):
        other = FetchPaths(paths.folder.with_name(draft.name.removeprefix(".fetch-")))
        if other.folder == paths.folder or not storage.is_locked(other.lock):
            draft.unlink(missing_ok=True)


def _no_split(request: HubRequest, listing: HubListing) -> DataError:
    of = f"{request.id}, config {listing.config},"
    hint = f"Its splits: {listed(listing.splits)}. Choose one (--split)."
    if request.split:
        return DataError(f"{of} has no split “{request.split}”.", hint=hint)
    return DataError(f"{of} has {len(listing.splits)} splits, none of them “train”.", hint=hint)


def _refuse_large(request: HubRequest, rows: Rows) -> None:
    """Refuse before the first byte what is known to be too large."""
    if request.max_rows:
        return
    if rows.count > MOST_ROWS:
        raise _too_many(request, f"has {rows.count:,} rows")
    if rows.file_bytes > request.max_bytes:
        raise _too_large(request, f"has {in_bytes(rows.file_bytes)} of files")


def _refuse_over(request: HubRequest, count: int, size: int) -> None:
    """Refuse what turns out to be too large while it is read."""
    if count > MOST_ROWS and not request.max_rows:
        raise _too_many(request, f"has more than {MOST_ROWS:,} rows")
    if size > request.max_bytes:
        raise _too_large(request, f"takes more than {in_bytes(request.max_bytes)}")


def _too_many(request: HubRequest, fact: str) -> DataError:
    return DataError(
        f"{request.id} {fact}; at most {plural(MOST_ROWS, 'row')} are fetched.",
        hint="Take the first rows only (--max-rows).",
    )


def _too_large(request: HubRequest, fact: str) -> DataError:
    return DataError(
        f"{request.id} {fact}; at most {in_bytes(request.max_bytes)} are stored.",
        hint="Take the first rows only (--max-rows).",
    )


def main(arguments: Sequence[str]) -> int:
    """Run the job of one folder; return its exit code."""
    paths = FetchPaths(Path(arguments[0]))

    def make() -> tuple[FetchProgram, Callable[[], None]]:
        program = FetchProgram(paths)
        return program, program.run

    return run_job(paths, make)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
