"""The report card on a run's page: asked for, measured elsewhere, kept with the run. Floor 5."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from orpo_qlora.errors import InputError
from orpo_qlora.evaluation import request as evaluation_request
from orpo_qlora.evaluation.request import Evaluation
from orpo_qlora.export.report_card_html import draw_report
from orpo_qlora.runs import store
from orpo_qlora.runs.store import Run
from orpo_qlora.ui.parts import cards
from orpo_qlora.ui.parts.events import QUIET
from orpo_qlora.ui.parts.guard import Updates, guarded

POLL_SECONDS = 1.0
EVALUATE, AGAIN = "Evaluate", "Evaluate again"


@dataclass(frozen=True)
class ReportPanel:
    """The components of the report card."""

    column: gr.Column
    button: gr.Button
    message: gr.HTML
    view: gr.HTML
    timer: gr.Timer

    @property
    def outputs(self) -> list[Any]:
        """Every component that changes."""
        return [self.column, self.button, self.message, self.view, self.timer]


def build_report_panel() -> ReportPanel:
    """Return the components, hidden until a run has ended with an adapter."""
    with gr.Column(visible=False, elem_id="report-card") as column:
        gr.HTML(
            cards.heading(
                "Report card",
                "What the run has learnt: base against tuned on the pairs kept away from it.",
            )
        )
        with gr.Row(elem_classes="actions"):
            button = gr.Button(
                EVALUATE, variant="primary", elem_id="report-evaluate", scale=0, min_width=180
            )
            message = gr.HTML(elem_id="report-message")
        view = gr.HTML(elem_id="report-view")
    return ReportPanel(column, button, message, view, gr.Timer(POLL_SECONDS, active=False))


def report_updates(panel: ReportPanel, run: Run) -> Updates:
    """Return what is known about a run's report card, without starting anything."""
    if run.is_active or not run.has_adapter:
        return {panel.column: gr.Column(visible=False), panel.timer: gr.Timer(active=False)}
    shown = {panel.column: gr.Column(visible=True)}
    try:
        evaluation_request.check_evaluable(run)
    except InputError as error:
        return shown | {
            panel.button: gr.Button(visible=False),
            panel.message: cards.reason(str(error)),
            panel.view: "",
            panel.timer: gr.Timer(active=False),
        }
    return shown | _known_updates(panel, run, evaluation_request.read_evaluation(run))


def _known_updates(panel: ReportPanel, run: Run, known: Evaluation) -> Updates:
    state, card = known.state, known.card
    message = ""
    if state.is_busy:
        share = f" ({state.done:,} of {state.total:,})" if state.total else ""
        message = cards.busy(f"Evaluating: {state.phase}{share} …")
    elif card is None and state.error is not None:
        error = state.error
        message = cards.error_card(error.message, hint=error.hint, where=error.where)
    updates: Updates = {
        panel.button: gr.Button(
            AGAIN if card else EVALUATE,
            variant="secondary" if card else "primary",
            visible=True,
            interactive=not state.is_busy,
        ),
        panel.message: message,
        panel.timer: gr.Timer(active=state.is_busy),
    }
    if not state.is_busy:
        updates[panel.view] = draw_report(run, card) if card else ""
    return updates


def evaluate(panel: ReportPanel, run_id: str) -> Updates:
    """Measure because the person asked for it, also what is known already."""
    run = store.read_run(store.paths_of(run_id))
    return _known_updates(panel, run, evaluation_request.ask(run, again=True))


def look(panel: ReportPanel, run_id: str | None) -> Updates:
    """Return what is known about the run that is shown, without starting anything."""
    if not run_id:
        return {panel.timer: gr.Timer(active=False)}
    return report_updates(panel, store.read_run(store.paths_of(run_id)))


def wire_report_panel(panel: ReportPanel, picker: gr.Dropdown) -> None:
    """Join the report card to the run that is shown."""

    def on_evaluate(run_id: str) -> Updates:
        return evaluate(panel, run_id)

    def on_tick(run_id: str | None) -> Updates:
        return look(panel, run_id)

    click = guarded(panel.message, on_evaluate)
    panel.button.click(click, picker, panel.outputs, trigger_mode="once", **QUIET)
    # Not gr.Timer: while the page is built that puts another one on it.
    tick = guarded(panel.message, on_tick, {panel.timer: gr.update(active=False)})
    panel.timer.tick(tick, picker, panel.outputs, **QUIET)
