"""Several ranks of a training over gloo, as forks of the test's own process."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist

from orpo_qlora.orpo.processes.process_group import ProcessGroup

WAIT_SECONDS = 120


def run_ranks(size: int, folder: Path, work: Callable[[ProcessGroup], Any]) -> list[Any]:
    """Return what `work` returns on each rank; an exception counts as a result.

    A rank that ends in another way gives its exit code, negative for a signal.
    """
    folder.mkdir(parents=True, exist_ok=True)
    children = [_fork(rank, size, folder, work) for rank in range(size)]
    results: list[Any] = []
    for rank, child in enumerate(children):
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        kept = (folder / f"{rank}.pickle").read_bytes() if code == 0 else b""
        results.append(pickle.loads(kept) if kept else code)  # noqa: S301 - written below
    return results


def processes_of(module: str, folder: Path) -> list[psutil.Process]:
    """Return the processes that run a module for a folder, in the order of their start."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if module in command and str(folder) in command:
            found.append(process)
    return sorted(found, key=lambda process: process.pid)


def _fork(rank: int, size: int, folder: Path, work: Callable[[ProcessGroup], Any]) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads that the fork lacks
        child = os.fork()
    if child:
        return child
    code = 1
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends it in native code too
        signal.alarm(WAIT_SECONDS)
        # An earlier test may have used several: threads that a fork lacks, and OpenMP waits for.
        torch.set_num_threads(1)
        store = dist.FileStore(str(folder / "store"), size)
        store.set_timeout(timedelta(seconds=WAIT_SECONDS))
        (folder / f"{rank}.pickle").write_bytes(pickle.dumps(_result(rank, size, store, work)))
        code = 0
    except BaseException:  # noqa: BLE001 - nothing of the test may run on in the fork
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _result(rank: int, size: int, store: dist.Store, work: Callable[[ProcessGroup], Any]) -> Any:
    group = ProcessGroup(rank, size, size, store)
    try:
        return work(group)
    except Exception as exc:  # noqa: BLE001 - given to the test
        return exc
