"""Short jobs asked and answered through files: a question, how far it is, an answer. Floor 3.

A job is a program of its own, because its work needs torch or transformers and must not end with
the page. Its folder is named for the question, so a second look is instant. No torch here: both
sides, who asks and the program, read this.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from orpo_qlora import storage
from orpo_qlora.errors import OrpoQloraError, UnknownRun
from orpo_qlora.program import run_program
from orpo_qlora.runs import store
from orpo_qlora.runs.process import launch
from orpo_qlora.runs.state import ErrorCard
from orpo_qlora.runs.store import Run

log = logging.getLogger(__name__)

START_SECONDS = 60.0
"""How long a fresh job may be without its lock before it counts as lost."""
WAIT_SECONDS = 0.2
LOOK_SECONDS = 0.5
"""How often a job that needs the machine to itself looks whether a run has begun."""
LOCK_PATIENCE_SECONDS = 2.0
_started: dict[Path, subprocess.Popen[bytes]] = {}
"""Programs started by this process; of others only the time of their start is known."""


class JobState(BaseModel):
    """How far a job is; `lost` is never stored, readers derive it."""

    model_config = ConfigDict(frozen=True)

    status: Literal["starting", "working", "done", "failed", "lost"] = "starting"
    phase: str = "starting"
    done: int = 0
    total: int = 0
    """Pairs worked through so far, and all of them; 0 until known."""
    error: ErrorCard | None = None
    started_at: float = 0.0

    @property
    def is_busy(self) -> bool:
        """Whether an answer is still to come."""
        return self.status in {"starting", "working"}


@dataclass(frozen=True)
class JobPaths:
    """The files of one job's folder that every kind of job has."""

    folder: Path

    @property
    def request(self) -> Path:
        """The latest question."""
        return self.folder / "request.json"

    @property
    def state(self) -> Path:
        """How far the job is."""
        return self.folder / "state.json"

    @property
    def lock(self) -> Path:
        """Held by the program while it works."""
        return self.folder / "lock"

    @property
    def log(self) -> Path:
        """Everything the program prints."""
        return self.folder / "log.txt"


def jobs_folder(kind: str) -> Path:
    """Return the folder of all jobs of a kind, made if missing."""
    folder = storage.home() / kind
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def write_request(paths: JobPaths, request: BaseModel) -> None:
    """Put the question where the program looks for it."""
    storage.write_whole(paths.request, request.model_dump_json())


def start_job(paths: JobPaths, program: str) -> JobState:
    """Start the program of a job whose question is written; return its first state."""
    state = JobState(started_at=time.time())
    storage.write_whole(paths.state, state.model_dump_json())
    _started[paths.folder] = launch.start_program(program, [str(paths.folder)], paths.log)
    return state


def read_state(paths: JobPaths, lost: ErrorCard) -> JobState:
    """Return how far a job is; one that died without a word is `lost`, with the given card."""
    try:
        state = JobState.model_validate_json(paths.state.read_bytes())
    except FileNotFoundError:
        return JobState()
    if not state.is_busy or storage.is_locked(paths.lock):
        return state
    # A program that ends says so before it lets go of its lock: look again.
    state = JobState.model_validate_json(paths.state.read_bytes())
    if not state.is_busy or (state.status == "starting" and _may_start(paths, state)):
        return state
    return state.model_copy(update={"status": "lost", "error": lost})


def _may_start(paths: JobPaths, state: JobState) -> bool:
    process = _started.get(paths.folder)
    if process is not None:
        return process.poll() is None
    return time.time() - state.started_at < START_SECONDS


def wait_while_busy(read: Callable[[], JobState], tell: Callable[[JobState], None]) -> JobState:
    """Return the state of a job once it has ended; `tell` hears how far it is."""
    state = read()
    while state.is_busy:
        tell(state)
        time.sleep(WAIT_SECONDS)
        state = read()
    return state


def error_of(state: JobState, otherwise: str) -> OrpoQloraError:
    """Return why a job has no answer, as the error that says so."""
    error = state.error or ErrorCard(slug="error", message=otherwise)
    return OrpoQloraError(error.message, hint=error.hint, where=error.where)


def forget_oldest(folder: Path, kept: int) -> None:
    """Make room for one more answer; those at work stay."""
    folders = [path for path in folder.iterdir() if path.is_dir()]
    folders.sort(key=lambda path: path.stat().st_mtime)
    for old in folders[: max(0, len(folders) - kept + 1)]:
        if not storage.is_locked(JobPaths(old).lock):
            shutil.rmtree(old, ignore_errors=True)


class Job:
    """The program's side of a job: says how far it is, and leaves a last word."""

    def __init__(self, paths: JobPaths) -> None:
        self.state = JobState(status="working", started_at=time.time())
        self.reported_at = 0.0
        """On the monotonic clock."""
        self._state_file = paths.state
        self._speaking = threading.Lock()

    def report(self, phase: str, **changes: object) -> None:
        """Say what is being done now; nothing more can be said after the last word."""
        with self._speaking:
            if not self.state.is_busy:
                return
            self.state = self.state.model_copy(update={"phase": phase, **changes})
            storage.write_whole(self._state_file, self.state.model_dump_json())
            self.reported_at = time.monotonic()
        log.info("%s %d/%d", phase, self.state.done, self.state.total)

    def give_way_to_runs(self, why: Callable[[Run], OrpoQloraError]) -> None:
        """From now on, end at once when a run begins: it must find the memory free."""

        def watch() -> None:
            while self.state.is_busy:
                with suppress(UnknownRun):  # its folder went while it was looked at
                    run = store.active_run()
                    if run is not None:
                        self.fail(why(run))
                        os._exit(1)
                time.sleep(LOOK_SECONDS)

        threading.Thread(target=watch, daemon=True).start()

    def finish(self) -> None:
        """Say that the answer is there."""
        self.report("done", status="done")

    def fail(self, error: OrpoQloraError) -> None:
        """Leave the last word of a job that went wrong."""
        self.report("failed", status="failed", error=ErrorCard.of(error))


def run_job(paths: JobPaths, make: Callable[[], tuple[Job, Callable[[], None]]]) -> int:
    """Run the program of a job's folder; return its exit code.

    Args:
        paths: of the job.
        make: returns the job and its work, once it is sure that no other program does it.
    """
    lock = storage.FileLock(paths.lock)
    if not lock.acquire(LOCK_PATIENCE_SECONDS):
        return 0  # the program at work reads the question again
    try:
        job, work = make()
        return run_program(work, job.fail)
    finally:
        lock.release()
