"""Records the end of a worker that died before it could. Floor 3; no torch."""

from __future__ import annotations

import logging
import signal
import time
from contextlib import suppress

from orpo_qlora import storage
from orpo_qlora.errors import OrpoQloraError
from orpo_qlora.runs import store
from orpo_qlora.runs.state import ErrorCard, RunState
from orpo_qlora.runs.store import RunPaths

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 0.5
"""Longer than a reader holds the lock; held longer, it belongs to the run's next worker."""
FORCED = "Ended by force after the request to stop; it can be resumed from its latest checkpoint."

EARLY = "Stopped before the first step."
_RANK_ERROR = ".error-of-rank-"
_STOP_SIGNALS = {-signal.SIGTERM, -signal.SIGINT}
"""A training worker handles these itself and writes a checkpoint."""

_CAUSES = {
    "SIGKILL": "Something ended it from outside, most often the system when memory ran out.",
    "SIGSEGV": "Native code touched memory it does not own, often a driver or library fault.",
    "SIGABRT": "Native code gave up, often after an error on the GPU.",
    "SIGBUS": "Memory behind a file was gone, often because a disk is full or failing.",
    "SIGILL": "Native code uses an instruction that this processor does not have.",
    "SIGFPE": "Native code divided by zero.",
}


def record_end(paths: RunPaths, exit_code: int, error: OrpoQloraError | None = None) -> None:
    """Record how a worker ended, unless it has done so itself.

    Args:
        paths: its run.
        exit_code: as `subprocess` gives it: negative is the number of a signal.
        error: why it could not be started.
    """
    lock = storage.FileLock(paths.lock)
    if not paths.folder.is_dir() or not lock.acquire(PATIENCE_SECONDS):
        return
    try:
        state = store.stored_state(paths)
        if not state.is_done and state.status != "queued":
            card = ErrorCard.of(error) if error else _rank_error(paths)
            store.write_state(paths, _ended(paths, state, exit_code, card))
        clear_rank_errors(paths)
    finally:
        lock.release()


def write_rank_error(paths: RunPaths, rank: int, error: OrpoQloraError) -> None:
    """Leave the error of a process that is not rank 0, and which the others do not know of."""
    card = ErrorCard.of(error)
    where = ", ".join(filter(None, (card.where, f"process {rank}")))
    text = card.model_copy(update={"where": where}).model_dump_json()
    storage.write_whole(paths.folder / f"{_RANK_ERROR}{rank}.json", text)


def clear_rank_errors(paths: RunPaths) -> None:
    """Remove the errors that processes of an earlier start have left."""
    for path in paths.folder.glob(f"{_RANK_ERROR}*"):
        path.unlink(missing_ok=True)


def _rank_error(paths: RunPaths) -> ErrorCard | None:
    for path in sorted(paths.folder.glob(f"{_RANK_ERROR}*.json")):
        with suppress(OSError, ValueError):
            return ErrorCard.model_validate_json(path.read_bytes())
    return None


def _ended(
    paths: RunPaths, state: RunState, exit_code: int, known: ErrorCard | None = None
) -> RunState:
    now = {"ended_at": time.time()}
    if exit_code in _STOP_SIGNALS or (exit_code < 0 and paths.stop.exists()):
        note = EARLY if exit_code in _STOP_SIGNALS and not state.step else FORCED
        log.info("%s", note)
        update = {**now, "phase": "", "notes": (*state.notes, note)}
        return state.moved_to("stopped").model_copy(update=update)
    card = (known if exit_code >= 0 else None) or _card(state, exit_code)
    log.error("%s", card.message)
    ended = state.model_copy(update={**now, "error": card})
    # After a signal the run reads as interrupted, which is never stored.
    return ended if exit_code < 0 else ended.moved_to("failed")


def _card(state: RunState, exit_code: int) -> ErrorCard:
    when = f"while {state.phase}" if state.phase else "before it began"
    hint = "Resume the run; the log says more."
    if exit_code < 0:
        name = signal.Signals(-exit_code).name
        message = f"The worker was ended by {name} {when}."
        hint = f"{_CAUSES.get(name, '')} {hint}".strip()
    else:
        message = f"The worker ended with code {exit_code} {when}."
    where = f"step {state.step} of {state.total_steps}" if state.total_steps else ""
    return ErrorCard(slug="worker-lost", message=message, hint=hint, where=where)
