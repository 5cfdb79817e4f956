"""Background jobs yield the processor to a chat answer. Floor 4; no torch.

The chat locks one file while it generates on a CPU, a job locks another while it runs. The kernel
releases both when their process dies, so neither side waits for a dead one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orpo_qlora import storage
from orpo_qlora.program import give_way

log = logging.getLogger(__name__)

MOST_SECONDS = 300.0
"""Longest pause of a job; a chat that still holds its lock then counts as hung."""
POLL_SECONDS = 0.2
LOCK_SECONDS = 2.0

_given_up = threading.Event()
"""Set when a pause reached its limit, until the chat is seen idle."""


def _folder() -> Path:
    folder = storage.home() / "chat"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _answering_file() -> Path:
    return _folder() / "answering.lock"


def _job_file() -> Path:
    return _folder() / "job.lock"


@contextmanager
def answering() -> Iterator[None]:
    """Make background jobs pause while the chat generates an answer on the processor."""
    with storage.FileLock(_answering_file()):
        yield


def is_answering() -> bool:
    """Whether the chat generates an answer on the processor now."""
    return storage.is_locked(_answering_file())


def work_behind_answers(name: str, *, announces: bool = True) -> storage.FileLock:
    """Announce a background job of this process, and lower its priority at the first answer.

    Priority is lowered for the rest of the process's life: raising it again needs privileges.

    Args:
        name: of the job, with its article, as the chat shows it.
        announces: off in a process whose job another one announces.

    Returns:
        The lock that announces the job, not held where another process announces it; the kernel
        releases it when the process ends.
    """
    path = _job_file()
    lock = storage.FileLock(path)
    if announces and lock.acquire(LOCK_SECONDS):
        path.write_text(name, encoding="utf-8")
    threading.Thread(target=_give_way_at_first_answer, daemon=True).start()
    return lock


def _give_way_at_first_answer() -> None:
    while not is_answering():
        time.sleep(POLL_SECONDS)
    give_way()


def running_job() -> str:
    """Return the name of the background job that runs on this machine; empty without one."""
    path = _job_file()
    return path.read_text(encoding="utf-8") if storage.is_locked(path) else ""


def wait_for_answer() -> float:
    """Pause this background job while the chat answers; call it between pairs or steps.

    Returns:
        Seconds waited, at most `MOST_SECONDS`; 0 for an answer that reached this limit before.
    """
    started = time.monotonic()
    while is_answering():
        if _given_up.is_set():
            return 0.0
        if time.monotonic() - started > MOST_SECONDS:
            log.info("the chat has been answering for %.0f s; the job continues", MOST_SECONDS)
            _given_up.set()
            return time.monotonic() - started
        time.sleep(POLL_SECONDS)
    _given_up.clear()
    return time.monotonic() - started
