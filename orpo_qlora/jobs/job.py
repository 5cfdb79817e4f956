"""Background jobs: a process of their own, request and answer in files. Floor 4; no torch.

A job needs torch or transformers and must survive the page. `BackgroundJob` is the client: it
starts the program and reads its progress and its answer. `JobProgram` is the program's side. The
folder of a job is named after its request, so that an answer is computed once.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import signal
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

from orpo_qlora import storage
from orpo_qlora.errors import Busy, OrpoQloraError, UnknownRun, WorkerLost
from orpo_qlora.program import run_program, start_program
from orpo_qlora.runs import store
from orpo_qlora.runs.state import ErrorCard
from orpo_qlora.runs.store import Run

log = logging.getLogger(__name__)

START_SECONDS = 60.0
"""How long a new job may be without its lock before it counts as lost."""
WAIT_SECONDS = 0.2
POLL_SECONDS = 0.5
"""How often a job that needs the machine to itself checks whether a run has started."""
LOCK_PATIENCE_SECONDS = 2.0
TURN_LOCK = "jobs.lock"
TORCHRUN = "orpo_qlora.jobs.shared.torchrun"
HASH_CHARACTERS = 32
_started: dict[Path, subprocess.Popen[bytes]] = {}
"""Programs started by this process; of others only the start time is known."""


class JobState(BaseModel):
    """Progress of a job. `new` (never started) and `lost` are derived by readers, never stored."""

    model_config = ConfigDict(frozen=True)

    status: Literal["new", "starting", "working", "done", "failed", "lost"] = "starting"
    phase: str = "starting"
    done: int = 0
    total: int = 0
    """Pairs processed so far, and in all; 0 until known."""
    error: ErrorCard | None = None
    started_at: float = 0.0

    @property
    def is_busy(self) -> bool:
        """Whether the program is working or starting."""
        return self.status in {"starting", "working"}


@dataclass(frozen=True)
class JobPaths:
    """Files in the folder of any job."""

    folder: Path

    @property
    def request(self) -> Path:
        """The latest request."""
        return self.folder / "request.json"

    @property
    def state(self) -> Path:
        """The JobState."""
        return self.folder / "state.json"

    @property
    def lock(self) -> Path:
        """Held by the program while it works."""
        return self.folder / "lock"

    @property
    def log(self) -> Path:
        """Everything the program prints."""
        return self.folder / "log.txt"


class HasState(Protocol):
    """Answer to a request so far: the job's state and its results."""

    @property
    def state(self) -> JobState:
        """Progress of the job."""


Request = TypeVar("Request")
Answer = TypeVar("Answer", bound=HasState)


class BackgroundJob(ABC, Generic[Request, Answer]):
    """Client of one kind of job; a subclass defines the request and the answer."""

    program: ClassVar[str]
    """Module of the program, started with the job's folder."""
    folder_name: ClassVar[str]
    """Folder of all jobs of this kind under the home."""
    kept: ClassVar[int]
    """Jobs kept; the oldest are removed for new ones."""
    lost: ClassVar[ErrorCard]
    """Shown when the program died without reporting an error."""
    is_repeatable: ClassVar[bool] = True
    """Whether a complete answer can be measured again."""
    takes_more: ClassVar[bool] = False
    """Whether a working program re-reads an extended request."""
    alone: ClassVar[str] = ""
    """Name, with its article, of a job that needs the machine to itself; empty for others."""
    alone_hint: ClassVar[str] = ""
    """What to do when it is refused during a run."""

    @abstractmethod
    def key(self, request: Request) -> str:
        """Return the folder name of a request."""

    def question(self, request: Request) -> BaseModel:
        """Return what the program reads from `request.json`: the request, unless overridden."""
        if not isinstance(request, BaseModel):
            raise TypeError(f"{type(self).__name__} has to say what its program reads")
        return request

    @abstractmethod
    def answer(self, request: Request, state: JobState) -> Answer:
        """Return what is on disk for a request whose job is in this state."""

    @abstractmethod
    def is_complete(self, request: Request, answer: Answer) -> bool:
        """Whether the answer holds everything that is requested."""

    def refusal(self, run: Run) -> OrpoQloraError | None:
        """Return why the job cannot run during a training run, None if it can."""
        if not self.alone:
            return None
        return Busy(
            f"Run “{run.title}” is {run.state.status}: {self.alone} needs the machine to itself.",
            hint=self.alone_hint,
        )

    def discard(self, request: Request) -> None:
        """Remove an earlier answer before the job starts again."""

    def process_count(self, request: Request) -> int:
        """Return the processes that share the job; above 1, its program has a `make`.

        See `jobs.shared.worker.Make`.
        """
        return 1

    def folder(self) -> Path:
        """Return the folder of all jobs of this kind, made if missing."""
        folder = storage.home() / self.folder_name
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def paths(self, request: Request) -> JobPaths:
        """Return the files of a request's job, there or not."""
        return JobPaths(self.folder() / self.key(request))

    def is_requested(self, request: Request) -> bool:
        """Whether the job was ever started."""
        return self.paths(request).state.is_file()

    def read(self, request: Request) -> Answer:
        """Return what is known, without starting anything."""
        # The state is read first: results it reports as done are then on disk.
        return self.answer(request, self._state(request))

    def ask(self, request: Request, *, again: bool = False) -> Answer:
        """Return what is known, and start the job for what is not; returns at once.

        A job that failed or was lost is restarted only with `again`.

        Raises:
            Busy: a run is at work; nothing was started.
            DiskFull: nothing was started.
        """
        known = self.read(request)
        is_busy = known.state.is_busy
        is_complete = self.is_complete(request, known) and not (again and self.is_repeatable)
        if is_complete or (is_busy and not self.takes_more) or (known.state.error and not again):
            return known
        run = store.active_run()
        refusal = self.refusal(run) if run is not None else None
        if refusal is not None:
            raise refusal
        processes = self.process_count(request)
        paths = self.paths(request)
        if not paths.folder.is_dir():
            _remove_oldest(paths.folder.parent, self.kept)
            paths.folder.mkdir(mode=0o700, exist_ok=True)
        if not is_busy:
            self.discard(request)
        storage.write_whole(paths.request, self.question(request).model_dump_json())
        if is_busy:
            return known
        return self.answer(request, self._start(paths, processes))

    def wait(
        self, request: Request, on_progress: Callable[[JobState], None], *, again: bool = False
    ) -> Answer:
        """Return the complete answer, computed first if necessary.

        Args:
            request: what is requested.
            on_progress: called with the state while the job is at work.
            again: compute a known answer again.

        Raises:
            Busy: a run is at work.
            OrpoQloraError: the job failed; message and class are those of the program's error.
        """
        answer = self.ask(request, again=again or not self.is_complete(request, self.read(request)))
        while answer.state.is_busy:
            on_progress(answer.state)
            time.sleep(WAIT_SECONDS)
            answer = self.read(request)
        if not self.is_complete(request, answer):
            raise (answer.state.error or self.lost).to_error()
        return answer

    def end_started(self, key: str) -> None:
        """End the job of this key, with the programs that it runs, if this process started it.

        Results on disk stay.
        """
        paths = JobPaths(self.folder() / key)
        process = _started.pop(paths.folder, None)
        if process is None or process.poll() is not None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # it has a session of its own
        process.kill()
        process.wait()
        paths.state.unlink(missing_ok=True)

    def _start(self, paths: JobPaths, processes: int) -> JobState:
        program, arguments = self.program, [str(paths.folder)]
        if processes > 1:
            program, arguments = TORCHRUN, [self.program, *arguments, str(processes)]
        state = JobState(started_at=time.time())
        storage.write_whole(paths.state, state.model_dump_json())
        _started[paths.folder] = start_program(program, arguments, paths.log)
        return state

    def _state(self, request: Request) -> JobState:
        paths = self.paths(request)
        try:
            state = JobState.model_validate_json(paths.state.read_bytes())
        except FileNotFoundError:
            return JobState(status="new", phase="")
        if not state.is_busy or storage.is_locked(paths.lock):
            return state
        # A program that ends writes its state before it releases its lock: read it again.
        state = JobState.model_validate_json(paths.state.read_bytes())
        if not state.is_busy or (state.status == "starting" and _may_start(paths, state)):
            return state
        hint = f"{self.lost.hint} The details are in {paths.log}."
        lost = self.lost.model_copy(update={"hint": hint})
        return state.model_copy(update={"status": "lost", "error": lost})


def lost_card(subject: str, hint: str) -> ErrorCard:
    """Return the error of a program that ended without reporting one."""
    return ErrorCard(
        slug=WorkerLost.slug,
        message=f"{subject} ended without an error message, as happens when the system ends the "
        "program that takes the most memory.",
        hint=hint,
    )


def hash_of(request: BaseModel, leave_out: frozenset[str] = frozenset()) -> str:
    """Return a folder name for a request, the same for equal requests."""
    content = request.model_dump_json(exclude=set(leave_out))
    return hashlib.sha256(content.encode()).hexdigest()[:HASH_CHARACTERS]


def _may_start(paths: JobPaths, state: JobState) -> bool:
    process = _started.get(paths.folder)
    if process is not None:
        return process.poll() is None
    return time.time() - state.started_at < START_SECONDS


def _remove_oldest(folder: Path, kept: int) -> None:
    """Make room for one more job; those at work stay."""
    folders = storage.oldest_first(path for path in folder.iterdir() if path.is_dir())
    for old in folders[: max(0, len(folders) - kept + 1)]:
        if not storage.is_locked(JobPaths(old).lock):
            shutil.rmtree(old, ignore_errors=True)


class JobProgram:
    """The program's side of a job: reports progress and how it ended.

    Of several processes that share the job, the first one alone reports and takes turns with other
    jobs.
    """

    def __init__(self, paths: JobPaths, *, is_first: bool = True) -> None:
        self.is_first = is_first
        self.end_sharing: Callable[[], None] = lambda: None
        """Called by every process of a job once the first one alone has work left."""
        self.state = JobState(status="working", started_at=time.time())
        self.reported_at = 0.0
        """On the monotonic clock."""
        self._state_file = paths.state
        self._reporting = threading.Lock()

    def report(self, phase: str, **changes: object) -> None:
        """Write the current phase and progress; ignored once the job has ended."""
        with self._reporting:
            if not self.state.is_busy:
                return
            self.state = self.state.model_copy(update={"phase": phase, **changes})
            self.reported_at = time.monotonic()
            if not self.is_first:
                return
            storage.write_whole(self._state_file, self.state.model_dump_json())
        log.info("%s %d/%d", phase, self.state.done, self.state.total)

    def give_way_to_runs(self, refusal: Callable[[Run], OrpoQloraError | None]) -> None:
        """From now on, end the program as soon as a run starts that `refusal` rejects."""

        def watch() -> None:
            while self.state.is_busy:
                with suppress(UnknownRun):  # deleted while it was read
                    run = store.active_run()
                    error = refusal(run) if run is not None else None
                    if error is not None:
                        self.fail(error)
                        os._exit(1)
                time.sleep(POLL_SECONDS)

        if self.is_first:
            threading.Thread(target=watch, daemon=True).start()

    @contextmanager
    def machine_turn(self) -> Iterator[None]:
        """Hold the machine: jobs that measure time or memory run one at a time."""
        if not self.is_first:  # rank 0 holds it for all
            yield
            return
        lock = storage.FileLock(storage.home() / TURN_LOCK)
        if storage.is_locked(lock.path):
            self.report("waiting for another estimate or evaluation")
        with lock:
            yield

    def finish(self) -> None:
        """Report that the answer is on disk."""
        self.report("done", status="done")

    def fail(self, error: OrpoQloraError) -> None:
        """Report why the job failed."""
        self.report("failed", status="failed", error=ErrorCard.of(error))


def run_job(paths: JobPaths, make: Callable[[], tuple[JobProgram, Callable[[], None]]]) -> int:
    """Run the program of a job's folder; return its exit code.

    Args:
        paths: of the job.
        make: returns the job and its work; called once no other program can be at the same job.
    """
    lock = storage.FileLock(paths.lock)
    if not lock.acquire(LOCK_PATIENCE_SECONDS):
        return 0  # the program at work re-reads the request
    try:
        job, work = make()
        return run_program(work, job.fail)
    finally:
        lock.release()
