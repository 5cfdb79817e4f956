"""Runs that can answer in one batch: those of one base model. Floor 5; no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orpo_qlora.errors import InputError
from orpo_qlora.runs import store
from orpo_qlora.runs.store import Run

ADAPTERS_HELD = 4
"""Adapters of one base that are in memory at the same time."""


@dataclass(frozen=True)
class BaseKey:
    """Runs with equal keys share a base in memory."""

    model: str
    revision: str
    quantization: str
    compute_dtype: str

    @classmethod
    def of(cls, run: Run) -> BaseKey:
        """Return the key of a run's base."""
        config = run.config
        return cls(config.model, config.revision, config.quantization, config.compute_dtype)

    @property
    def label(self) -> str:
        """The base as text, with everything that distinguishes it from another."""
        parts = (self.model, self.revision, f"weights {self.quantization}", self.compute_dtype)
        return ", ".join(part for part in parts if part)


def chat_runs() -> list[Run]:
    """Return the runs that can answer, newest first: ended, with an adapter."""
    return [run for run in store.list_runs() if run.has_adapter and not run.is_active]


def common_base(runs: Sequence[Run]) -> BaseKey:
    """Return the base that all the runs were trained on.

    Raises:
        InputError: there is none, no run, or there are too many runs.
    """
    if not runs:
        raise InputError(
            "No run is chosen, so no base model is known.",
            hint="Choose at least one run to compare.",
        )
    if len(runs) > ADAPTERS_HELD:
        raise InputError(
            f"{len(runs)} runs cannot answer at the same time.",
            hint=f"Choose {ADAPTERS_HELD} at most.",
        )
    first = BaseKey.of(runs[0])
    for run in runs[1:]:
        other = BaseKey.of(run)
        if other != first:
            raise InputError(
                f"Run “{runs[0].title}” is an adapter for {first.label}, run “{run.title}” one for "
                f"{other.label}: only runs of one base can answer side by side.",
                hint=f"Leave one of them out; “{run.title}” can be compared with its own base.",
            )
    return first
