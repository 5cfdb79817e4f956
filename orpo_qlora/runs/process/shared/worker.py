"""A worker that shares its run with other processes. Floor 3.

Rank 0 records everything. What fails on every rank alike is recorded by rank 0; a failure of
another rank alone is left in a file for the supervisor, and a process that is killed takes the
others with it, so that the run reads as interrupted.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from orpo_qlora import storage
from orpo_qlora.errors import InputError, OrpoQloraError
from orpo_qlora.orpo.processes.process_group import PeerLost, ProcessGroup
from orpo_qlora.program import run_program
from orpo_qlora.runs import store
from orpo_qlora.runs.process import ending
from orpo_qlora.runs.process.shared import alike
from orpo_qlora.runs.process.shared.peers import POLL_SECONDS, Peers
from orpo_qlora.runs.process.shared.rank_log import mark_log
from orpo_qlora.runs.process.worker import Worker, run_worker
from orpo_qlora.runs.store import RunPaths

log = logging.getLogger(__name__)

LOCK_SECONDS = 5.0
FINISH_SECONDS, FAIL_SECONDS = 600.0, 10.0
"""How long the other processes wait for rank 0 to record the end. Where one alone has failed,
rank 0 does not know of it."""


class SharedWorker:
    """One process of a run from its start to its end."""

    def __init__(self, paths: RunPaths, rank: int, lock: int | None) -> None:
        self.paths, self.rank = paths, rank
        self._lock = None if lock is None else storage.FileLock.adopt(paths.lock, lock)
        self._group: ProcessGroup | None = None
        self._worker: Worker | None = None
        self._peers: Peers | None = None

    def run(self) -> None:
        """Join the other processes and do this one's part of the run."""
        mark_log(self.rank)
        # It warns that the processes are not those of its own trainer, which is meant.
        logging.getLogger("transformers.training_args").setLevel(logging.ERROR)
        if self.rank == 0:
            if self._lock is None:
                self._lock = self._take_run()
            ending.clear_rank_errors(self.paths)
        self._group = group = ProcessGroup.from_environment()
        places = group.gather(lambda: (socket.gethostname(), os.getpid()))
        here = socket.gethostname()
        self._peers = Peers([process for host, process in places if host == here])
        group.peers = self._peers.are_alive
        self._peers.watch()
        self._worker = Worker(self.paths, group)
        for note in alike.compare_machines(group, self._worker.config):
            self._worker.on_note(note)
        run_worker(self._worker)
        self._leave(FINISH_SECONDS)

    def fail(self, error: OrpoQloraError) -> None:
        """Record why the run failed, or end as the process did that has died.

        A run that could not be taken, because it is at work or has finished, is left as it is.
        """
        if self._group is not None and self._group.shards_base:
            time.sleep(4 * POLL_SECONDS)  # a process that has died breaks the others' forwards
        if isinstance(error, PeerLost):
            time.sleep(4 * POLL_SECONDS)  # the launcher must see first which process died
            os.kill(os.getpid(), signal.SIGKILL)
        if self.rank == 0:
            if self._lock is not None:
                (self._worker or Worker(self.paths)).fail(error)
        elif self._group is None or not self._group.is_agreed:
            ending.write_rank_error(self.paths, self.rank, error)
        self._leave(FAIL_SECONDS)

    def _leave(self, patience_seconds: float) -> None:
        if self._peers is not None:
            self._peers.stop()
        if self._group is not None:
            self._group.leave(patience_seconds)

    def _take_run(self) -> storage.FileLock:
        """Take and return the lock of a run that no supervisor has started.

        Raises:
            InputError: it is at work, or has finished.
        """
        lock = storage.FileLock(self.paths.lock)
        if not lock.acquire(LOCK_SECONDS):
            raise InputError(f"Run {self.paths.id} is at work already.", hint="Stop it first.")
        state = store.stored_state(self.paths)
        if state.status == "finished":
            lock.release()
            raise InputError(f"Run {self.paths.id} has finished.", hint="Create another run.")
        self.paths.stop.unlink(missing_ok=True)
        # Any other status may be left by processes that were killed.
        update = {"status": "starting", "phase": "", "error": None, "ended_at": 0.0}
        update["memory_failures"] = state.memory_failures + state.ran_out_of_memory
        store.write_state(self.paths, state.model_copy(update=update))
        return lock


def main(arguments: Sequence[str]) -> int:
    """Take part in the run of a folder; return the exit code."""
    paths = RunPaths(Path(arguments[0]).absolute())
    lock = int(arguments[1]) if len(arguments) > 1 else None
    worker = SharedWorker(paths, int(os.environ.get("RANK", "0")), lock)
    return run_program(worker.run, worker.fail)
