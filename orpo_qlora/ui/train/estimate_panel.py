"""The estimate beside Start training: what a run would take, measured when asked for. Floor 5.

It never stands in the way of a start: the work is a program of its own, and a run that begins ends
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from orpo_qlora.errors import InputError
from orpo_qlora.jobs import estimation
from orpo_qlora.jobs.estimation import Answer, Estimate, EstimateRequest
from orpo_qlora.ui.data import uploads
from orpo_qlora.ui.parts import cards
from orpo_qlora.ui.parts.events import QUIET
from orpo_qlora.ui.parts.guard import Updates, guarded
from orpo_qlora.ui.train import form

POLL_SECONDS = 1.0
ESTIMATE = "Estimate"
AGAIN = "Estimate again"
UNKNOWN = "How long, and does it fit? “Estimate” tries a step or two and says."


@dataclass(frozen=True)
class EstimatePanel:
    """The components of the estimate."""

    estimate: gr.Button
    view: gr.HTML
    timer: gr.Timer

    @property
    def outputs(self) -> list[Any]:
        """Every component that changes with an estimate."""
        return [self.estimate, self.view, self.timer]


def build_plan_panel() -> EstimatePanel:
    """Return the panel's components, without an estimate."""
    estimate = gr.Button(ESTIMATE, elem_id="plan-estimate", scale=0, min_width=140)
    view = gr.HTML(elem_id="plan-view")
    return EstimatePanel(estimate, view, gr.Timer(POLL_SECONDS, active=False))


def request_of(dataset_id: str, values: Sequence[object]) -> EstimateRequest:
    """Return the question that the page's components ask.

    Raises:
        DataError: the file is not kept any more.
        ConfigError: lists every wrong setting.
    """
    if not dataset_id:
        raise InputError(
            "There are no pairs to estimate with.", hint="Choose them on the Data tab."
        )
    config = form.config_from(values)
    report = uploads.open_dataset(dataset_id).report
    return estimation.request_for(uploads.data_file(dataset_id), report, config)


def is_estimated(dataset_id: str, values: Sequence[object]) -> bool:
    """Tell whether it is known, or being measured, what these settings take.

    Raises:
        InputError: there is nothing to estimate with.
    """
    return estimation.is_requested(request_of(dataset_id, values))


def estimate(panel: EstimatePanel, dataset_id: str, values: Sequence[object]) -> Updates:
    """Measure because the person asked for it, also what is known already."""
    return _plan_updates(panel, estimation.ask(request_of(dataset_id, values), again=True))


def look(panel: EstimatePanel, dataset_id: str, values: Sequence[object]) -> Updates:
    """Return what is known about these settings, without starting anything."""
    try:
        request = request_of(dataset_id, values)
    except InputError:
        return nothing(panel)  # why training cannot start is said beside the button
    if not estimation.is_requested(request):
        return nothing(panel) | {panel.view: cards.reason(UNKNOWN)}
    return _plan_updates(panel, estimation.read_answer(request))


def nothing(panel: EstimatePanel) -> Updates:
    """Return the panel without an estimate."""
    return {panel.estimate: ESTIMATE, panel.view: "", panel.timer: gr.Timer(active=False)}


def _plan_updates(panel: EstimatePanel, plan: Answer) -> Updates:
    return {
        panel.estimate: AGAIN if plan.estimate else ESTIMATE,
        panel.view: _shown(plan),
        panel.timer: gr.Timer(active=plan.state.is_busy),
    }


def _shown(plan: Answer) -> str:
    state = plan.state
    if state.is_busy:
        return cards.busy(f"Estimating: {state.phase} …")
    if plan.estimate is not None:
        return draw_forecast(plan.estimate)
    if state.error is None:
        return ""
    return cards.error_card(state.error.message, hint=state.error.hint, where=state.error.where)


def draw_forecast(found: Estimate) -> str:
    """Return a forecast: the sentence, what to change, and where the numbers come from."""
    sentence, *rest = found.sentences()
    return cards.forecast(sentence, found.changes, rest[len(found.changes) :], fits=found.fits)


def wire_plan_panel(
    panel: EstimatePanel,
    inputs: list[Any],
    edits: list[Any],
    filled: Sequence[Any],
) -> None:
    """Join the estimate to the page.

    Args:
        panel: the components.
        inputs: the data and every setting, which the estimate is about.
        edits: events after which an estimate may be about something else.
        filled: events that fill the form without an edit, as a preset does.
    """

    def on_estimate(dataset_id: str, *values: object) -> Updates:
        return estimate(panel, dataset_id, values)

    def on_look(dataset_id: str, *values: object) -> Updates:
        return look(panel, dataset_id, values)

    click = guarded(panel.view, on_estimate)
    panel.estimate.click(click, inputs, panel.outputs, trigger_mode="once", **QUIET)
    # Not gr.Timer: while the page is built that puts another one on it.
    watch = guarded(panel.view, on_look, {panel.timer: gr.update(active=False)})
    panel.timer.tick(watch, inputs, panel.outputs, **QUIET)
    gr.on(edits, watch, inputs, panel.outputs, trigger_mode="always_last", **QUIET)
    for event in filled:
        event.then(watch, inputs, panel.outputs, **QUIET)
