"""The program beside each worker: `python -m orpo_qlora.runs.process.supervisor RUN LOCK`. Floor 3.

It starts the worker, learns how it ended (only a parent can know the signal), records it if
the worker could not, and starts the next run of the queue. Small, no torch. When it is killed, the
worker continues, and pages and terminals advance the queue.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from orpo_qlora import storage
from orpo_qlora.errors import OrpoQloraError
from orpo_qlora.program import run_program, start_program
from orpo_qlora.runs import store
from orpo_qlora.runs.process import launch
from orpo_qlora.runs.process.ending import record_end
from orpo_qlora.runs.process.shared.process_count import process_count
from orpo_qlora.runs.store import RunPaths


class Supervisor:
    """Supervises one worker from start to end."""

    def __init__(self, paths: RunPaths, lock: storage.FileLock) -> None:
        self.paths, self.lock = paths, lock
        self._must_end = False

    def run(self) -> None:
        """Start the worker, wait for its end, start the next run."""
        # The worker handles its own signals; a shutdown signals every process.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        arguments = [str(self.paths.folder), str(self.lock.fileno())]
        program, processes = launch.WORKER, process_count(store.read_run(self.paths).config)
        if processes > 1:
            program, arguments = launch.TORCHRUN, [*arguments, str(processes)]
        logging.getLogger(__name__).info("%s", launch.LOADING)
        log, home = self.paths.log, storage.home()
        worker = start_program(program, arguments, log, shares=self.lock.fileno(), works_in=home)
        self.lock.release()  # the worker's copy holds it from now on
        record_end(self.paths, worker.wait())
        if not self._must_end:
            launch.start_next()

    def fail(self, error: OrpoQloraError) -> None:
        """Record why the worker could not be started."""
        self.lock.release()
        record_end(self.paths, error.exit_code, error)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._must_end = True


def main(arguments: Sequence[str]) -> int:
    """Supervise the worker of one run folder; return the exit code."""
    paths = RunPaths(Path(arguments[0]))
    supervisor = Supervisor(paths, storage.FileLock.adopt(paths.lock, int(arguments[1])))
    return run_program(supervisor.run, supervisor.fail)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
