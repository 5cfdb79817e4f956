"""The state of a run, and which changes of it are legal. Floor 3; no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from orpo_qlora.errors import OrpoQloraError, OutOfMemory, class_of

Status = Literal[
    "queued", "starting", "running", "stopping", "finished", "stopped", "failed", "interrupted"
]
TERMINAL: frozenset[Status] = frozenset({"finished", "stopped", "failed"})

_NEXT: dict[Status, frozenset[Status]] = {
    "queued": frozenset({"starting", "stopped", "failed"}),
    "starting": frozenset({"running", "stopping", "stopped", "failed"}),
    "running": frozenset({"stopping", "finished", "stopped", "failed"}),
    "stopping": frozenset({"stopped", "failed"}),
    # Resumed.
    "interrupted": frozenset({"queued"}),
    "stopped": frozenset({"queued"}),
    "failed": frozenset({"queued"}),
}


class ErrorCard(BaseModel):
    """A failure as the page and the command line show it."""

    model_config = ConfigDict(frozen=True)

    slug: str
    message: str
    hint: str = ""
    where: str = ""

    @classmethod
    def of(cls, error: OrpoQloraError) -> ErrorCard:
        """Return the card of an error."""
        return cls(slug=error.slug, message=error.message, hint=error.hint, where=error.where)

    def to_error(self) -> OrpoQloraError:
        """Return an error with these texts, of the class that the slug names.

        A class whose module is not imported here becomes an OrpoQloraError.
        """
        return class_of(self.slug)(self.message, hint=self.hint, where=self.where)


class RunState(BaseModel):
    """What `state.json` holds. `interrupted` is never stored; readers derive it."""

    model_config = ConfigDict(frozen=True)

    status: Status = "queued"
    phase: str = ""
    """What the worker is doing, for example “loading the base model”, “training”."""
    step: int = 0
    total_steps: int = 0
    seconds_per_step: float = 0.0
    """Median of the latest steps, evaluation not counted; 0 before the second step."""
    error: ErrorCard | None = None
    notes: tuple[str, ...] = ()
    """Decisions worth knowing: compute type and why, pairs too long, memory events."""
    created_at: float = 0.0
    """Seconds since the epoch, UTC, as are the two below."""
    started_at: float = 0.0
    """When the latest worker began; a resumed run has had several."""
    ended_at: float = 0.0
    progressed_at: float = 0.0
    """Seconds of the machine's monotonic clock at the latest step or change of phase."""
    place: int = 0
    """Position in the queue, the smallest is next; unused once a worker has started."""
    ticket: str = ""
    """Idempotency key of the start: the same ticket twice makes one run."""
    memory_failures: int = 0
    """How often the run was resumed after memory had run out."""

    @property
    def is_done(self) -> bool:
        """Whether the worker has recorded its end."""
        return self.status in TERMINAL

    @property
    def ran_out_of_memory(self) -> bool:
        """Whether that is why the run ended."""
        return self.error is not None and self.error.slug == OutOfMemory.slug

    def moved_to(self, status: Status) -> RunState:
        """Return the state with another status.

        Raises:
            ValueError: the change is not legal; a bug, never a user error.
        """
        if status != self.status and status not in _NEXT.get(self.status, frozenset()):
            raise ValueError(f"a run cannot go from {self.status} to {status}")
        return self.model_copy(update={"status": status})
