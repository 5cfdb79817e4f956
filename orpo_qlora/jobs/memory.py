"""The error of a job that runs out of memory. Floor 4; torch."""

from __future__ import annotations

from collections.abc import Callable

from orpo_qlora.errors import OutOfMemory
from orpo_qlora.jobs.job import JobProgram
from orpo_qlora.models.devices import hardware


def memory_named(job: JobProgram, work: Callable[[], None], hint: str) -> Callable[[], None]:
    """Return the work of a job; if it runs out of memory, the error has the job's phase.

    Args:
        job: its phase is named.
        work: what the job does.
        hint: what the user can do.
    """

    def named() -> OutOfMemory:
        return OutOfMemory(f"Memory ran out while {job.state.phase}.", hint=hint)

    def run() -> None:
        with hardware.memory_errors(named):
            work()

    return run
