"""One read of a run's folder, which holds everything the Runs tab shows of it.

Views are pure functions of a `Snapshot`; none of them reads a file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from orpo_qlora.charts.view import Choices
from orpo_qlora.errors import InputError
from orpo_qlora.evaluation import request as evaluation_request
from orpo_qlora.evaluation.request import Evaluation
from orpo_qlora.export.formats import exports_of
from orpo_qlora.export.reports import report_card_html
from orpo_qlora.export.reports.report_card_html import Report
from orpo_qlora.export.request import Export
from orpo_qlora.runs import store
from orpo_qlora.runs.curves.metrics import Metrics
from orpo_qlora.runs.process import queue as run_queue
from orpo_qlora.runs.process import watch
from orpo_qlora.runs.state import ErrorCard
from orpo_qlora.runs.store import Run
from orpo_qlora.ui.runs import samples_view

AT_FIRST = Choices()
FED = {"status", "plots", "log"}
"""Parts that change with every step and consist of text alone."""
EVERY_STEP = ("step", "seconds_per_step")
MOST_SECONDS = 1.0
"""Longest time to read a metrics file per snapshot; the rest is read by the next one."""


@dataclass(frozen=True)
class Outcome:
    """What a run that has ended leaves behind."""

    has_adapter: bool = False
    is_exportable: bool = False
    refusal: str = ""
    """Why it cannot be evaluated; empty if it can."""
    evaluation: Evaluation | None = None
    """None if it cannot be evaluated."""
    report: Report | None = None
    exports: Mapping[str, Export] = field(default_factory=dict)
    """Model files by format; empty where nothing can be exported."""


@dataclass(frozen=True)
class Snapshot:
    """A run at one moment."""

    run: Run
    metrics: Metrics
    samples: list[dict[str, object]]
    awaited: str
    """When the sample prompts are answered next."""
    log: str
    waiting: tuple[Run, ...]
    """The runs in the queue, next one first."""
    checkpoint_step: int
    stalled: ErrorCard | None
    can_be_forced: bool
    outcome: Outcome

    def fingerprints(self, choices: Choices) -> dict[str, str]:
        """Return what each part of the tab depends on, so that only changed parts are rendered."""
        # `progressed_at` is written with every phase and not shown.
        state = self.run.state.model_dump_json(exclude={"progressed_at", *EVERY_STEP})
        queue = [(run.id, run.title) for run in self.waiting]
        # A run at work cannot be resumed, so its newest checkpoint is not shown.
        resumable = 0 if self.run.is_active else self.checkpoint_step
        made = [(one.state, one.result) for one in self.outcome.exports.values()]
        beside = f"{made} {queue} {resumable} {self.stalled} {self.can_be_forced}"
        ended, known = self.outcome, self.outcome.evaluation
        read = f"{self.run.id} {self.metrics.count} {self.metrics.share_read}"
        steps = " ".join(str(getattr(self.run.state, name)) for name in EVERY_STEP)
        return {
            "status": f"{self.run.id} {state} {steps} {self.run.title} {self.metrics.count}",
            "around": f"{self.run.id} {state} {ended.has_adapter} {ended.is_exportable} {beside}",
            "report": f"{self.run.id} {ended.refusal} {known and known.state} "
            f"{ended.report and ended.report.card.adapter_sha256}",
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
        samples_view.awaited_sentence(run),
        store.log_tail(paths),
        waiting=tuple(run_queue.queued_runs()),
        checkpoint_step=run.checkpoint_step,
        stalled=watch.stalled(run),
        can_be_forced=watch.can_be_forced(run),
        outcome=_outcome(run),
    )


def _outcome(run: Run) -> Outcome:
    if run.is_active or not run.has_adapter:
        return Outcome()
    outcome = Outcome(True, run.has_final_adapter)
    if outcome.is_exportable:
        outcome = replace(outcome, exports=exports_of(run))
    try:
        evaluation_request.check_evaluable(run)
    except InputError as error:
        return replace(outcome, refusal=str(error))
    known = evaluation_request.read_evaluation(run)
    report = report_card_html.report_of(run, known.card) if known.card else None
    return replace(outcome, evaluation=known, report=report)


def changed_parts(snapshot: Snapshot, seen: str, choices: Choices = AT_FIRST) -> set[str]:
    """Return the parts of the tab that differ from what a page shows.

    Args:
        snapshot: the run now.
        seen: what `seen_token` returned for what the page shows; empty for nothing.
        choices: how the run is shown.
    """
    before = json.loads(seen) if seen else {}
    now = short_prints(snapshot, choices)
    return {name for name, print_ in now.items() if before.get(name) != print_}


def seen_token(snapshot: Snapshot, choices: Choices = AT_FIRST) -> str:
    """Return the fingerprints of what a page shows, as one text."""
    return json.dumps(short_prints(snapshot, choices))


def short_prints(snapshot: Snapshot, choices: Choices) -> dict[str, str]:
    """Return the fingerprints, hashed."""
    return {name: f"{hash(text):x}" for name, text in snapshot.fingerprints(choices).items()}
