"""The report card on a run's page: measured by a background job, stored with the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from orpo_qlora.evaluation import request as evaluation_request
from orpo_qlora.evaluation.request import Evaluation
from orpo_qlora.export.reports.report_card_html import Report, draw_report
from orpo_qlora.runs import store
from orpo_qlora.runs.store import RunPaths
from orpo_qlora.ui.parts import cards
from orpo_qlora.ui.parts.guard import Updates
from orpo_qlora.ui.runs.folds import build_fold
from orpo_qlora.ui.runs.snapshot import Snapshot

EVALUATE, AGAIN = "Evaluate", "Evaluate again"


@dataclass(frozen=True)
class ReportRow:
    """The button and the result in one line."""

    row: gr.Row
    button: gr.Button
    message: gr.HTML


@dataclass(frozen=True)
class ReportPanel:
    """The line near the top of the page, and the section of the whole card further down."""

    line: ReportRow
    fold: gr.Accordion
    view: gr.HTML

    @property
    def outputs(self) -> list[Any]:
        """Every component that changes."""
        return [self.line.row, self.line.button, self.line.message, self.fold, self.view]


def build_report_row() -> ReportRow:
    """Return the line, hidden until a run has an adapter."""
    with gr.Row(visible=False, elem_classes="actions", elem_id="report-card") as row:
        button = gr.Button(EVALUATE, elem_id="report-evaluate", scale=0, min_width=180)
        message = gr.HTML(elem_id="report-message")
    return ReportRow(row, button, message)


def build_report_panel(line: ReportRow) -> ReportPanel:
    """Return the panel with its section, hidden until there is a report card."""
    with build_fold("report", "Report card") as fold:
        view = gr.HTML(elem_id="report-view")
    return ReportPanel(line, fold, view)


def report_updates(panel: ReportPanel, now: Snapshot) -> Updates:
    """Return the state of the evaluation and its result."""
    outcome = now.outcome
    if not outcome.has_adapter:
        return {panel.line.row: gr.Row(visible=False), panel.fold: gr.Accordion(visible=False)}
    shown: Updates = {panel.line.row: gr.Row(visible=True)}
    if outcome.evaluation is None:
        return shown | {
            panel.line.button: gr.Button(visible=False),
            panel.line.message: cards.reason(outcome.refusal),
            panel.fold: gr.Accordion(visible=False),
            panel.view: "",
        }
    is_busy, report = outcome.evaluation.state.is_busy, outcome.report
    updates = shown | {
        panel.line.button: gr.Button(
            AGAIN if report else EVALUATE,
            variant="secondary" if report else "primary",
            visible=True,
            interactive=not is_busy,
        ),
        panel.line.message: _message(outcome.evaluation, report),
    }
    if not is_busy:
        updates[panel.fold] = gr.Accordion(visible=report is not None)
        updates[panel.view] = draw_report(report) if report else ""
    return updates


def _message(known: Evaluation, report: Report | None) -> str:
    state = known.state
    if state.is_busy:
        share = f" ({state.done:,} of {state.total:,})" if state.total else ""
        return cards.busy(f"Evaluating: {state.phase}{share} …")
    if report is not None:
        return cards.reason(report.card.sentences()[0])
    if state.error is not None:
        error = state.error
        return cards.error_card(error.message, hint=error.hint, where=error.where)
    return cards.reason("Compares base and tuned model on the held-out pairs.")


def evaluate(paths: RunPaths) -> None:
    """Start an evaluation, also of a run that has been evaluated.

    Raises:
        InputError: the run cannot be evaluated.
        Busy: a run is at work.
        DiskFull: nothing was started.
    """
    evaluation_request.ask(store.read_run(paths), again=True)
