"""The queue of runs, and requests to stop. Floor 3; no torch."""

from __future__ import annotations

import time
from contextlib import suppress

from pydantic import ValidationError

from orpo_qlora.runs import store
from orpo_qlora.runs.store import Run, RunPaths


def queued_runs() -> list[Run]:
    """Return the queued runs, next one first."""
    stored = (paths for paths in store.all_paths() if _is(paths, status="queued"))
    waiting = [run for run in store.readable(stored) if run.state.status == "queued"]
    return sorted(waiting, key=lambda run: (run.state.place, run.id))


def run_of_ticket(ticket: str) -> RunPaths | None:
    """Return the run that was created with a ticket, if any."""
    if not ticket:
        return None
    return next((paths for paths in store.all_paths() if _is(paths, ticket=ticket)), None)


def _is(paths: RunPaths, **wanted: str) -> bool:
    """Whether the stored state has these values; False for a run just deleted."""
    try:
        state = store.stored_state(paths)
    except (FileNotFoundError, ValidationError):
        return False
    return all(getattr(state, name) == value for name, value in wanted.items())


def ask_to_stop(paths: RunPaths) -> None:
    """Write the stop request, with the time of the monotonic clock."""
    with suppress(FileExistsError), paths.stop.open("x", encoding="utf-8") as file:
        file.write(str(time.monotonic()))


def seconds_since_stop(paths: RunPaths) -> float | None:
    """Return the seconds since a stop was requested, None without a request."""
    try:
        asked_at = paths.stop.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    return time.monotonic() - float(asked_at or 0)
