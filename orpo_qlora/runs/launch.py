"""Start and stop runs. Talks to processes and files, never to torch. Floor 3."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from orpo_qlora import storage
from orpo_qlora.config import TrainConfig
from orpo_qlora.data.pairs import Dataset, split_pairs
from orpo_qlora.errors import Busy, WorkerLost
from orpo_qlora.runs import store
from orpo_qlora.runs.store import Run, RunPaths

WORKER = "orpo_qlora.runs.worker"
PROGRAM_ENVIRONMENT = {
    "PYTHONUNBUFFERED": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # A thread that waits spins first; for long, it keeps the very thread it waits for off the core
    # when page, browser and worker share two of them. Not spinning at all costs a sixth of the
    # speed, this bound nothing that could be measured.
    "GOMP_SPINCOUNT": "20000",
}


def start_run(config: TrainConfig, dataset: Dataset) -> RunPaths:
    """Make a run from settings and data and start its worker; returns at once.

    Raises:
        Busy: another run is at work; the message names it.
        DiskFull: nothing was started.
    """
    # Two clicks, two pages or a page and a terminal: the check and the new folder are one act.
    with storage.FileLock(storage.home() / "launch.lock"):
        active = store.active_run()
        if active is not None:
            raise Busy(
                f"Run “{active.title}” is {active.state.status}.",
                hint="Wait until it ends, or stop it first.",
                where=active.id,
            )
        paths = store.create_run(
            config, split_pairs(dataset.pairs, config.held_out, config.seed), dataset.report
        )
    start_program(WORKER, [str(paths.folder)], paths.log)
    return paths


def start_program(module: str, arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a background program of this package in a session of its own, output to a file.

    The program outlives this process and its terminal.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            close_fds=True,
            env={**PROGRAM_ENVIRONMENT, **os.environ},
        )
    # Somebody must collect the exit, or an ended program stays behind as a zombie.
    threading.Thread(target=process.wait, daemon=True).start()
    return process


def run_foreground(module: str, arguments: Sequence[str] = ()) -> int:
    """Run a program of this package in this terminal until it ends; return its exit code."""
    try:
        return subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode
    except KeyboardInterrupt:
        return 0  # Ctrl-C reached the program too, which has ended by now


def stop_run(paths: RunPaths) -> None:
    """Ask the worker to end after its current step and keep the adapter; returns at once."""
    paths.stop.touch()


def wait_for(paths: RunPaths, timeout_seconds: float) -> Run:
    """Return the run once it has ended.

    Raises:
        WorkerLost: it was still at work when the time was up.
    """
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        run = store.read_run(paths)
        if not run.is_active:
            return run
        time.sleep(0.2)
    raise WorkerLost(f"Run {paths.id} did not end within {timeout_seconds:.0f} s.")
