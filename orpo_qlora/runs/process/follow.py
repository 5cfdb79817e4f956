"""Progress of a run in a terminal. Floor 3; no torch."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from orpo_qlora.runs import store
from orpo_qlora.runs.process import launch
from orpo_qlora.runs.store import Run, RunPaths

FOLLOW_SECONDS = 0.5


def follow(paths: RunPaths, console: Console, *, quiet: bool) -> Run:
    """Show the run until it ends and return it.

    Ctrl-C or SIGTERM asks it to stop with a checkpoint and continues to follow; the second one
    ends it by force.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with _asked_to_stop() as asked, Progress(*columns, console=console, disable=quiet) as progress:
        task = progress.add_task("starting", total=None)
        answered = 0
        while True:
            run = _shown(paths, progress, task)
            if not run.is_active:
                return run
            if answered == len(asked):
                time.sleep(FOLLOW_SECONDS)
                continue
            answered += 1
            if answered == 1:
                launch.stop_run(paths)
                progress.console.print(
                    "Stopping after this step with a checkpoint; once more ends it at once."
                )
            else:
                launch.end_run(paths, grace_seconds=0.0)


def _shown(paths: RunPaths, progress: Progress, task: TaskID) -> Run:
    run = store.read_run(paths)
    state = run.state
    if state.status == "queued":
        launch.start_next()  # its supervisor may be gone
    progress.update(
        task,
        description=state.phase or state.status,
        completed=state.step,
        total=state.total_steps or None,
    )
    return run


@contextmanager
def _asked_to_stop() -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM; raised as exceptions they could be swallowed."""
    asked: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda number, _: asked.append(number)) for number in numbers]
    try:
        yield asked
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
