"""One look at a run, from which everything on the Runs tab is drawn. Floor 5; page process."""

from __future__ import annotations

import json
from dataclasses import dataclass

from orpo_qlora.charts.view import Choices
from orpo_qlora.runs import store
from orpo_qlora.runs.metrics import Metrics
from orpo_qlora.runs.process import queue as run_queue
from orpo_qlora.runs.process import watch
from orpo_qlora.runs.state import ErrorCard
from orpo_qlora.runs.store import Run

AT_FIRST = Choices()
FED = {"status", "plots", "log"}
"""Parts that change with every step; the others change seldom, and by more than their text."""
EVERY_STEP = ("step", "seconds_per_step")
MOST_SECONDS = 1.0
"""How long one look may read a long metrics file; the next one goes on."""


@dataclass(frozen=True)
class Snapshot:
    """A run as it was at one moment."""

    run: Run
    metrics: Metrics
    samples: list[dict[str, object]]
    log: str
    waiting: tuple[str, ...]
    """Ids of the runs in the queue, next one first."""
    checkpoint_step: int
    stalled: ErrorCard | None
    can_be_forced: bool

    def fingerprints(self, choices: Choices) -> dict[str, str]:
        """Return for each part of the tab what it depends on, to redraw only what changed."""
        # When it got on last is written with every phase, and shown nowhere.
        state = self.run.state.model_dump_json(exclude={"progressed_at", *EVERY_STEP})
        beside = f"{self.waiting} {self.checkpoint_step} {self.stalled} {self.can_be_forced}"
        read = f"{self.run.id} {self.metrics.count} {self.metrics.share_read}"
        pace = " ".join(str(getattr(self.run.state, name)) for name in EVERY_STEP)
        return {
            "status": f"{self.run.id} {state} {pace} {self.metrics.count}",
            "around": f"{self.run.id} {state} {self.run.has_adapter} {beside}",
            "plots": f"{read} {self.run.state.total_steps} {self.run.state.error} {choices.chart}",
            "samples": f"{self.run.id} {len(self.samples)} {self.run.is_active} {choices}",
            "log": f"{self.run.id} {hash(self.log)}",
        }


def take_snapshot(run_id: str) -> Snapshot:
    """Return a run as it is now.

    Raises:
        UnknownRun: there is no such run.
    """
    paths = store.paths_of(run_id)
    run = store.read_run(paths)
    metrics = store.metrics_of(paths, MOST_SECONDS)
    return Snapshot(
        run,
        metrics,
        store.samples_of(paths),
        store.log_tail(paths),
        waiting=tuple(waiting.id for waiting in run_queue.queued_runs()),
        checkpoint_step=run.checkpoint_step,
        stalled=watch.stalled(run),
        can_be_forced=watch.can_be_forced(run),
    )


def changed_parts(snapshot: Snapshot, seen: str, choices: Choices = AT_FIRST) -> set[str]:
    """Return the parts of the tab that differ from what a page has already drawn.

    Args:
        snapshot: the run now.
        seen: what `seen_token` returned for what the page shows; empty for nothing.
        choices: how the person wants to see it now.
    """
    before = json.loads(seen) if seen else {}
    now = short_prints(snapshot, choices)
    return {name for name, print_ in now.items() if before.get(name) != print_}


def seen_token(snapshot: Snapshot, choices: Choices = AT_FIRST) -> str:
    """Return a short text by which a page remembers what it shows."""
    return json.dumps(short_prints(snapshot, choices))


def short_prints(snapshot: Snapshot, choices: Choices) -> dict[str, str]:
    """Return the fingerprints, each in a few letters."""
    return {name: f"{hash(text):x}" for name, text in snapshot.fingerprints(choices).items()}
