"""Deletion of runs: renamed out of the list, then removed. Floor 3; no torch."""

from __future__ import annotations

from collections.abc import Collection

from orpo_qlora import storage
from orpo_qlora.errors import InputError
from orpo_qlora.runs import store
from orpo_qlora.runs.process.launch import LOCK_SECONDS, launching
from orpo_qlora.runs.store import Run, RunPaths


def why_not(run: Run, held_by_chat: Collection[str] = ()) -> str:
    """Return why a run cannot be deleted now, empty if it can.

    Args:
        run: the run.
        held_by_chat: ids of the runs whose adapters the chat has in memory.
    """
    if run.state.status == "queued":
        return f"Run “{run.title}” waits in the queue: take it out of the queue first."
    if run.is_active:
        return f"Run “{run.title}” is {run.state.status}: stop it first, and wait until it has."
    if run.id in held_by_chat:
        return f"The chat holds the adapter of run “{run.title}”."
    return ""


def delete_run(paths: RunPaths, held_by_chat: Collection[str] = ()) -> None:
    """Delete a run's folder; after a crash the run is either whole or out of the list.

    Args:
        paths: the run.
        held_by_chat: ids of the runs whose adapters the chat has in memory.

    Raises:
        UnknownRun: it no longer exists.
        InputError: it is in use; nothing was touched.
    """
    with launching():  # prevents a concurrent start or resume
        reason = why_not(store.read_run(paths), held_by_chat)
        if reason:
            raise InputError(reason, hint="Nothing was deleted.")
        # The supervisor of a worker that has just ended may still be recording the cause.
        lock = storage.FileLock(paths.lock)
        if not lock.acquire(LOCK_SECONDS):
            raise InputError(f"Run {paths.id} is at work again.", hint="Nothing was deleted.")
        try:
            aside = store.set_aside(paths)
        finally:
            lock.release()
    store.remove_folder(aside)
