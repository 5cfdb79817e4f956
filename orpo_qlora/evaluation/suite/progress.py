"""Progress of a program with the time it still takes. Floor 5; no torch."""

from __future__ import annotations

import time
from collections.abc import Callable

from orpo_qlora.jobs.estimation import about


class Progress:
    """Counts items of one phase and reports the time left, measured on the items so far."""

    def __init__(self, report: Callable[..., None]) -> None:
        self._report = report
        self.phase = ""
        self._done = self._total = 0
        self._started = 0.0

    def start(self, phase: str, total: int) -> None:
        """Begin a phase with so many items."""
        self.phase, self._done, self._total = phase, 0, total
        self._started = time.monotonic()
        self._report(phase, done=0, total=total)

    def advance(self, items: int = 1) -> None:
        """Count items."""
        self.at(self._done + items, self._total)

    def at(self, done: int, total: int) -> None:
        """Set the items done and in all; 0 in all where the number is unknown."""
        self._done, self._total = done, total
        left = self._total - self._done
        seconds = (time.monotonic() - self._started) / max(1, self._done) * left
        text = f"{self.phase}, {about(seconds)} left" if left > 0 else self.phase
        self._report(text, done=self._done, total=self._total)
