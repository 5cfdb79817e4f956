"""The estimate beside “Start training”: memory, disk and time of a run, measured on request.

It never blocks a start: the job is a process of its own, and a run that starts ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from orpo_qlora.errors import InputError
from orpo_qlora.jobs import estimation
from orpo_qlora.jobs.estimation import Answer, Estimate, EstimateRequest
from orpo_qlora.ui.data import uploads
from orpo_qlora.ui.parts import cards, form
from orpo_qlora.ui.parts.events import QUIET
from orpo_qlora.ui.parts.guard import Updates, guarded

POLL_SECONDS = 1.0
ESTIMATE = "Estimate"
AGAIN = "Estimate again"
UNKNOWN = "“Estimate” runs one or two steps to measure memory, disk and time."


@dataclass(frozen=True)
class EstimatePanel:
    """The button, the result, and the timer that polls a job in progress."""

    estimate: gr.Button
    view: gr.HTML
    timer: gr.Timer

    @property
    def outputs(self) -> list[Any]:
        """Every component that changes with an estimate."""
        return [self.estimate, self.view, self.timer]


def build() -> EstimatePanel:
    """Return the panel's components, without an estimate."""
    estimate = gr.Button(ESTIMATE, elem_id="estimate-start", scale=0, min_width=140)
    view = gr.HTML(elem_id="estimate-view")
    timer = gr.Timer(POLL_SECONDS, active=False)
    return EstimatePanel(estimate=estimate, view=view, timer=timer)


def request_of(dataset_id: str, values: Sequence[object]) -> EstimateRequest:
    """Return the request for an upload and the values of the form's inputs.

    Raises:
        DataError: the upload is no longer stored.
        ConfigError: lists every wrong setting.
    """
    if not dataset_id:
        raise InputError(
            "There are no pairs to estimate with.", hint="Choose them on the Data tab."
        )
    config = form.config_from(values)
    report = uploads.open_for(dataset_id, config).report
    return estimation.request_for(uploads.files_for(dataset_id, config), report, config)


def requested(dataset_id: str, values: Sequence[object]) -> Answer | None:
    """Return the result or progress of the estimate for these settings; None if not requested.

    Raises:
        InputError: data are missing or settings are wrong.
    """
    request = request_of(dataset_id, values)
    return estimation.read_answer(request) if estimation.is_requested(request) else None


def estimate(panel: EstimatePanel, dataset_id: str, values: Sequence[object]) -> Updates:
    """Start the estimate on the user's request, also if there is one already."""
    return _updates(panel, estimation.ask(request_of(dataset_id, values), again=True))


def look(panel: EstimatePanel, dataset_id: str, values: Sequence[object]) -> Updates:
    """Return the estimate for these settings if there is one, without starting it."""
    try:
        found = requested(dataset_id, values)
    except InputError:
        return nothing(panel)  # the reason is shown beside “Start training”
    if found is None:
        return nothing(panel) | {panel.view: cards.reason(UNKNOWN)}
    return _updates(panel, found)


def nothing(panel: EstimatePanel) -> Updates:
    """Return the panel without an estimate."""
    return {panel.estimate: ESTIMATE, panel.view: "", panel.timer: gr.Timer(active=False)}


def _updates(panel: EstimatePanel, found: Answer) -> Updates:
    return {
        panel.estimate: AGAIN if found.estimate else ESTIMATE,
        panel.view: _view(found),
        panel.timer: gr.Timer(active=found.state.is_busy),
    }


def _view(found: Answer) -> str:
    state = found.state
    if state.is_busy:
        return cards.busy(f"Estimating: {state.phase} …")
    if found.estimate is not None:
        return draw_estimate(found.estimate)
    if state.error is None:
        return ""
    return cards.error_card(state.error.message, hint=state.error.hint, where=state.error.where)


def draw_estimate(found: Estimate) -> str:
    """Return an estimate as HTML: the sentence, what to change, and how it was measured."""
    sentence, *rest = found.sentences()
    return cards.estimate(sentence, found.changes, rest[len(found.changes) :], fits=found.fits)


def connect(
    panel: EstimatePanel,
    inputs: list[Any],
    chosen: Callable[..., Any],
    edited: Sequence[Any],
) -> None:
    """Connect the panel to its handlers.

    Args:
        panel: the panel's components.
        inputs: the dataset id and every setting, which the estimate is for.
        chosen: event listener of another dataset.
        edited: events after which a setting may differ.
    """

    def on_estimate(dataset_id: str, *values: object) -> Updates:
        return estimate(panel, dataset_id, values)

    def on_refresh(dataset_id: str, *values: object) -> Updates:
        return look(panel, dataset_id, values)

    handler = guarded(panel.view, on_estimate)
    panel.estimate.click(handler, inputs, panel.outputs, trigger_mode="once", **QUIET)
    # gr.update, not gr.Timer: a component made while the page is built becomes part of it.
    refresh = guarded(panel.view, on_refresh, {panel.timer: gr.update(active=False)})
    panel.timer.tick(refresh, inputs, panel.outputs, **QUIET)
    chosen(refresh, inputs, panel.outputs, trigger_mode="always_last", **QUIET)
    for event in edited:
        event.then(refresh, inputs, panel.outputs, **QUIET)
