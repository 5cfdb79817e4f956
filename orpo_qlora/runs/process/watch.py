"""Detects a worker that makes no progress. Floor 3; no torch.

Measured on the monotonic clock, which no change of date or time affects, since the latest step or
change of phase: a process that is alive but does nothing is found too. Nothing is killed
automatically.
"""

from __future__ import annotations

import time

from orpo_qlora.runs.process import queue as run_queue
from orpo_qlora.runs.process.launch import GRACE_SECONDS
from orpo_qlora.runs.state import ErrorCard
from orpo_qlora.runs.store import Run

LONGEST_SECONDS = {
    "loading the base model": 3600.0,  # a download may be part of it
    "tokenizing the pairs": 1800.0,
    "saving a checkpoint": 900.0,
    "saving the adapter": 900.0,
}
OTHERWISE_SECONDS = 900.0
SUPERVISOR_SECONDS = 10.0
STEPS = 20
"""A phase may also last as long as this many ordinary steps: an evaluation sees many pairs."""


def stalled(run: Run) -> ErrorCard | None:
    """Return a card for a worker without progress for much longer than its phase takes."""
    state = run.state
    if not run.is_at_work or not state.progressed_at:
        return None
    quiet_seconds = time.monotonic() - state.progressed_at
    longest = LONGEST_SECONDS.get(state.phase, OTHERWISE_SECONDS)
    if quiet_seconds <= max(longest, STEPS * state.seconds_per_step):
        return None
    return ErrorCard(
        slug="stalled",
        message=f"No progress for {quiet_seconds / 60:.0f} minutes while "
        f"{state.phase or 'starting'} (step {state.step}).",
        hint="It may still come back. If not: stop it, by force if need be, and resume it; the "
        "latest checkpoint is kept.",
    )


def awaits_cause(run: Run) -> bool:
    """Whether a worker has just died and its supervisor may still record the cause."""
    state = run.state
    if state.status != "interrupted" or state.error is not None:
        return False
    quiet_seconds = time.monotonic() - state.progressed_at
    return 0 <= quiet_seconds < SUPERVISOR_SECONDS + STEPS * state.seconds_per_step


def can_be_forced(run: Run) -> bool:
    """Whether the grace period of a stopping run is over."""
    asked = run_queue.seconds_since_stop(run.paths)
    return run.state.status == "stopping" and asked is not None and asked >= GRACE_SECONDS
