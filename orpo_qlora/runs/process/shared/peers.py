"""Ends a process of a run or job whose other processes have died. Floor 3; no torch.

A process that waits for the results of another may wait for minutes, in native code that no
signal handler interrupts. A thread checks whether the other processes of this machine, and the
launcher, are alive; if not, nothing that this process computes can be used, and what is on disk,
the latest checkpoint for instance, is complete.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5


def kill_self() -> None:
    """End this process with SIGKILL."""
    log.error("Another process of this run has died, so this one ends.")
    os.kill(os.getpid(), signal.SIGKILL)


class Peers:
    """The other processes of this machine, and the launcher that started this one.

    Args of the constructor: the processes, and what is called once one of them has died.
    """

    def __init__(
        self, processes: Sequence[int], on_death: Callable[[], object] = kill_self
    ) -> None:
        self._on_death = on_death
        self._processes = [process for process in processes if process != os.getpid()]
        self._launcher = os.getppid()
        self._ended = threading.Event()

    def watch(self) -> None:
        """Start the checks, which end with the first process that has died."""
        threading.Thread(target=self._watch, daemon=True).start()

    def stop(self) -> None:
        """Stop the checks: this process has nothing left to compute."""
        self._ended.set()

    def are_alive(self) -> bool:
        """Whether the other processes and the launcher are alive."""
        return os.getppid() == self._launcher and all(map(_is_alive, self._processes))

    def _watch(self) -> None:
        while not self._ended.wait(POLL_SECONDS):
            if not self.are_alive():
                self._on_death()
                return


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
