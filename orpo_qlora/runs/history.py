"""The list of all runs: filtered and ordered."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from pydantic import ValidationError

from orpo_qlora import methods
from orpo_qlora.errors import InputError
from orpo_qlora.runs import store
from orpo_qlora.runs.curves.metrics import ACCURACY
from orpo_qlora.runs.curves.results import Results, results_of
from orpo_qlora.runs.state import Status
from orpo_qlora.runs.store import Run

Order = Literal["newest", "oldest", "accuracy", "loss", "name"]
ORDERS: tuple[Order, ...] = get_args(Order)
STATUSES: tuple[Status, ...] = get_args(Status)


@dataclass(frozen=True)
class Unreadable:
    """A run folder that this version cannot read."""

    id: str
    reason: str


@dataclass(frozen=True)
class History:
    """Every run at one moment, newest first."""

    runs: tuple[Run, ...]
    unreadable: tuple[Unreadable, ...] = ()

    @property
    def models(self) -> list[str]:
        """The base models of the runs, by name."""
        return sorted({run.config.model for run in self.runs})

    @property
    def tags(self) -> list[str]:
        """The tags of the runs, by name."""
        return sorted({tag for run in self.runs for tag in run.label.tags}, key=str.casefold)


@dataclass(frozen=True)
class Filters:
    """Filters of the list; empty ones match every run."""

    text: str = ""
    status: str = ""
    model: str = ""
    tag: str = ""
    order: Order = "newest"

    @property
    def is_empty(self) -> bool:
        """Whether every run matches."""
        return not (self.text.strip() or self.status or self.model or self.tag)


def read_history() -> History:
    """Return every run; unchanged folders are not read again."""
    runs: list[Run] = []
    unreadable: list[Unreadable] = []
    for paths in store.all_paths():
        try:
            runs.append(store.read_run(paths))
        except (InputError, ValidationError) as error:
            if paths.folder.exists():  # else it was just deleted
                unreadable.append(Unreadable(paths.id, _reason(error)))
    return History(tuple(runs), tuple(unreadable))


def _reason(error: InputError | ValidationError) -> str:
    return error.message if isinstance(error, InputError) else "its files are damaged"


def results(run: Run) -> Results:
    """Return the latest measurements of a run."""
    return results_of(run.paths.metrics)


def matching(runs: Iterable[Run], filters: Filters) -> list[Run]:
    """Return the runs that match, in the chosen order; newest first among equals."""
    words = filters.text.casefold().split()
    found = [run for run in runs if _matches(run, filters, words)]
    key = _KEYS.get(filters.order)
    if filters.order == "oldest":
        return found[::-1]
    return sorted(found, key=key) if key else found


def _matches(run: Run, filters: Filters, words: Sequence[str]) -> bool:
    if filters.status and run.state.status != filters.status:
        return False
    if filters.model and run.config.model != filters.model:
        return False
    if filters.tag and filters.tag not in run.label.tags:
        return False
    return not words or all(word in _text_of(run) for word in words)


def _text_of(run: Run) -> str:
    objective = methods.short_name(run.config)
    named = (objective, objective.replace(" ", "="), methods.method_of(run.config).title)
    parts = (run.title, run.id, run.config.model, run.report.source, *named, *run.label.tags)
    return " ".join(parts).casefold()


def _measured(run: Run, name: str) -> float:
    """Return a held-out result, not a number without one."""
    held_out = results(run).held_out
    value = held_out.value(name) if held_out else None
    return math.nan if value is None else value


def _best_accuracy(run: Run) -> tuple[float, str]:
    value = _measured(run, ACCURACY)
    return math.inf if math.isnan(value) else -value, ""


def _lowest_loss(run: Run) -> tuple[float, str]:
    value = _measured(run, "loss")
    return math.inf if math.isnan(value) else value, ""


def _by_name(run: Run) -> tuple[float, str]:
    return 0.0, run.title.casefold()


_KEYS: dict[Order, Callable[[Run], tuple[float, str]]] = {
    "accuracy": _best_accuracy,
    "loss": _lowest_loss,
    "name": _by_name,
}
