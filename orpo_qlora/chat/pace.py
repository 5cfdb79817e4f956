"""How much of the processor an answer may take from a run that trains on it. Floor 4; no torch.

Niceness alone does not protect a run: its threads wait for one another, so whoever holds one core
for a moment holds them all. What protects it is that the chat computes little.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

SHARE = 0.01
"""Of one core, over time, however many there are: a run is as slow as its slowest thread."""
AT_ONCE_SECONDS = 10.0
"""Computing that the first answers beside a run may do as fast as they can."""
SAVED_SECONDS = 30.0
"""Most that may be saved up while nobody asks."""
LOOK_SECONDS = 0.2
"""How long a rest goes on before it is asked whether it is still needed."""
WORD_SECONDS = 5.0
"""Who waits is told so again after this time, and can be told from who is gone."""
RESTING = "a run has the processor; stop it to go on at full speed, and resume it later"


class Pace:
    """The computing time the chat has to spend: earned by the clock, spent by answering.

    One thread at a time answers and counts its own computing; `keep` may come from another.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        used: Callable[[], float] = time.thread_time,
    ) -> None:
        self.is_kept = False
        """Whether a run trains on the processor that answers are computed on."""
        self._clock, self._used = clock, used
        self._saved = self._earned_until = self._spent_until = 0.0
        self._has_rested = False

    def keep(self, is_kept: bool) -> None:
        """Begin to keep to the share, go on, or end it."""
        if is_kept and not self.is_kept:
            self._saved, self._earned_until = AT_ONCE_SECONDS, self._clock()
        self.is_kept = is_kept

    def begin(self) -> None:
        """Count an answer of this thread from here: loading a model cannot be done by halves."""
        self._spent_until = self._used()
        self._has_rested = False

    def rest(self, say: Callable[[str], None], should_stop: Callable[[], bool]) -> str:
        """Wait until more may be computed; return what there is to say of the answer's pace."""
        self.spend()  # what was computed before a run began is not held against the answer
        told = -math.inf
        while self.is_kept and not should_stop() and self.rest_seconds():
            if self._clock() - told >= WORD_SECONDS:
                told, self._has_rested = self._clock(), True
                say(RESTING)
            time.sleep(LOOK_SECONDS)
        return RESTING if self.is_kept and self._has_rested else ""

    def rest_seconds(self) -> float:
        """Return how long to wait before more may be computed, 0 to go on."""
        self.spend()
        return max(0.0, -self._saved / SHARE)

    def spend(self) -> None:
        """Count what was computed up to now."""
        now, used = self._clock(), self._used()
        earned = (now - self._earned_until) * SHARE
        self._saved = min(SAVED_SECONDS, self._saved + earned) - (used - self._spent_until)
        self._earned_until, self._spent_until = now, used
