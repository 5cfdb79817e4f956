"""A background job that several processes share. Floor 4.

Rank 0 holds the job's lock, reports and writes. What fails on every rank alike is reported by rank
0; when a process dies, rank 0 reports that and all others end.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import TypeAlias

import torch.distributed as dist

from orpo_qlora import storage
from orpo_qlora.errors import OrpoQloraError, WorkerLost
from orpo_qlora.jobs.job import LOCK_PATIENCE_SECONDS, JobPaths, JobProgram
from orpo_qlora.orpo.processes.process_group import PeerLost, ProcessGroup
from orpo_qlora.orpo.processes.ranks import Ranks
from orpo_qlora.program import run_program
from orpo_qlora.runs.process.shared.peers import Peers
from orpo_qlora.runs.process.shared.rank_log import mark_log

log = logging.getLogger(__name__)

LEAVE_SECONDS = 10.0
"""How long the other processes wait for rank 0 to report an error that all know of."""

Make: TypeAlias = Callable[[JobPaths, Ranks], tuple[JobProgram, Callable[[], None]]]
"""Returns a job and the work of one of its ranks."""


class SharedJob:
    """One process of a job from its start to its end."""

    def __init__(self, paths: JobPaths, make: Make, rank: int) -> None:
        self._paths, self._make, self._rank = paths, make, rank
        self._job = JobProgram(paths, is_first=rank == 0)
        self._group: ProcessGroup | None = None
        self._peers: Peers | None = None

    def run(self) -> None:
        """Join the other processes and do this one's part of the job."""
        mark_log(self._rank)
        signal.signal(signal.SIGTERM, self._on_signal)
        self._group = group = ProcessGroup.from_environment()
        processes = group.gather(lambda: (socket.gethostname(), os.getpid()))
        self._peers = Peers([process for _, process in processes], self._end_with_peer)
        group.peers = self._peers.are_alive
        self._peers.watch()
        self._job, work = self._make(self._paths, group)
        self._job.end_sharing = self._end_sharing
        work()

    def fail(self, error: OrpoQloraError) -> None:
        """Report why the job failed; a process other than rank 0 only ends."""
        if isinstance(error, PeerLost):
            self._end_with_peer()
        self._stop_watching()
        self._job.fail(error)
        if self._group is not None:
            self._group.leave(LEAVE_SECONDS)

    def _end_sharing(self) -> None:
        """Let the other processes end: the rest of the job is rank 0's."""
        if self._group is None:
            return
        self._stop_watching()
        self._group.together(lambda: None)
        self._group.leave(LEAVE_SECONDS)
        dist.destroy_process_group()  # no library may take rank 0 for one of several

    def _stop_watching(self) -> None:
        """From here on, another process may end."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if self._peers is not None:
            self._peers.stop()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """The launcher ends all processes once one has died; that one is reported."""
        if self._peers is not None and not self._peers.are_alive():
            self._end_with_peer()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _end_with_peer(self) -> None:
        """Report that a process has died, and end this one at once: it may wait in native code."""
        self._job.fail(
            WorkerLost(
                "One of the processes that share this job has ended, as happens when the system "
                "ends the program that takes the most memory.",
                hint="Close other programs, or use fewer processes, and start again: what was "
                f"kept so far is used. The details are in {self._paths.log}.",
            )
        )
        os._exit(WorkerLost.exit_code)


def main(make: Make, paths: JobPaths) -> int:
    """Take part in the job of a folder; return the exit code."""
    rank = int(os.environ.get("RANK", "0"))
    lock = storage.FileLock(paths.lock)
    if rank == 0 and not lock.acquire(LOCK_PATIENCE_SECONDS):
        log.error("another program is at this job")
        return 1  # the launcher ends the other processes
    try:
        shared = SharedJob(paths, make, rank)
        return run_program(shared.run, shared.fail)
    finally:
        lock.release()
