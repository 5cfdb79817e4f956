"""A run in a terminal, until it ends. Floor 3; no torch."""

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

from orpo_qlora.runs import launch, store
from orpo_qlora.runs.store import Run, RunPaths

FOLLOW_SECONDS = 0.5


def follow(paths: RunPaths, console: Console, *, quiet: bool) -> Run:
    """Show the run until it ends and return it.

    Ctrl-C or SIGTERM asks it to stop with a checkpoint and goes on watching; the second one ends it
    by force.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with _sigterm_is_ctrl_c(), Progress(*columns, console=console, disable=quiet) as progress:
        task = progress.add_task("starting", total=None)
        asked = 0
        while True:
            try:
                run = _shown(paths, progress, task)
                if not run.is_active:
                    return run
                time.sleep(FOLLOW_SECONDS)
            except KeyboardInterrupt:
                asked += 1
                if asked == 1:
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
        launch.start_next()  # in case whoever should have done so is gone
    progress.update(
        task,
        description=state.phase or state.status,
        completed=state.step,
        total=state.total_steps or None,
    )
    return run


@contextmanager
def _sigterm_is_ctrl_c() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
