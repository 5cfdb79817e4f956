"""One line above the tabs that says what to do next, wherever the person is. Floor 5."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from orpo_qlora.errors import InputError, UnknownRun
from orpo_qlora.evaluation import request as evaluation_request
from orpo_qlora.runs import store
from orpo_qlora.runs.process import queue as run_queue
from orpo_qlora.runs.store import Run
from orpo_qlora.ui.data import uploads
from orpo_qlora.ui.data.findings_view import CHOOSING, choice_button
from orpo_qlora.ui.parts.events import QUIET
from orpo_qlora.ui.parts.guard import Updates, guarded
from orpo_qlora.ui.train import estimate_panel, form

TABS = {"data": "Data", "train": "Train", "runs": "Runs", "chat": "Chat"}
"""Where a next step can lead, by the tab's id."""


@dataclass(frozen=True)
class Step:
    """What to do next, and on which tab."""

    text: str
    tab: str


def build_next_step() -> gr.HTML:
    """Return the line for somebody who has just come."""
    return gr.HTML(draw(_before("", ())), elem_id="next-step", js_on_load=CHOOSING)


def next_step(dataset_id: str, values: Sequence[object], run_id: str) -> Step:
    """Return what to do next.

    Args:
        dataset_id: the chosen pairs, empty for none.
        values: what the form's inputs hold.
        run_id: the run that is shown, empty for none.
    """
    active = store.active_run()
    if active is not None:
        return Step(f"watch “{active.title}” train; the page may be closed meanwhile.", "runs")
    if run_queue.queued_runs():
        return Step("wait a moment: a run in the queue is about to start.", "runs")
    run = _ended(run_id)
    if run is not None and (not dataset_id or run.report.sha256 == dataset_id):
        return _after(run)
    return _before(dataset_id, values)


def _ended(run_id: str) -> Run | None:
    try:
        return store.read_run(store.paths_of(run_id)) if run_id else None
    except UnknownRun:
        return None


def _after(run: Run) -> Step:
    if run.state.status == "failed":
        return Step(f"see what ended “{run.title}”, and resume it.", "runs")
    if (
        evaluation_request.is_evaluable(run)
        and evaluation_request.read_evaluation(run).card is None
    ):
        return Step(
            f"press “Evaluate” to see what “{run.title}” has learnt, then talk to it.", "runs"
        )
    if run.has_adapter:
        return Step(f"talk to “{run.title}”, beside the base model.", "chat")
    return Step(f"“{run.title}” ended early: resume it, or start another run.", "runs")


def _before(dataset_id: str, values: Sequence[object]) -> Step:
    if not dataset_id:
        return Step("click an example, or bring a file of your own.", "data")
    try:
        uploads.open_dataset(dataset_id)
    except InputError:
        return Step("answer the question about your file.", "data")
    try:
        form.config_from(values)
    except InputError:
        return Step("correct the setting that is named beside “Start training”.", "train")
    if not estimate_panel.is_estimated(dataset_id, values):
        return Step("press “Estimate” to see what it will take, then “Start training”.", "train")
    return Step("press “Start training”.", "train")


def draw(step: Step) -> str:
    """Return the line as HTML; the way there is hidden on the tab it leads to."""
    way = choice_button(step.tab, f"Go to {TABS[step.tab]}", "quiet-button")
    return (
        f'<p class="next-step"><span role="status"><strong>Next:</strong> {html.escape(step.text)}'
        f"</span> {way}</p>"
    )


def look(view: gr.HTML, values: Sequence[Any], shown: str) -> Updates | None:
    """Return the line if it is another than the one that is shown.

    Args:
        view: where the line stands.
        values: the run that is shown, the chosen pairs, and what the form's inputs hold.
        shown: the line there.
    """
    run_id, dataset_id, *settings = values
    line = draw(next_step(dataset_id or "", settings, run_id or ""))
    return {view: line} if line != shown else None


def wire_next_step(
    view: gr.HTML, tabs: gr.Tabs, watched: Sequence[Any], events: Sequence[Any]
) -> None:
    """Join the line to the page.

    Args:
        view: where it stands.
        tabs: what its button turns.
        watched: the run that is shown, the chosen pairs, and the form's inputs.
        events: after which another step may be next.
    """

    def on_look(shown: str, *values: Any) -> Updates | None:  # noqa: ANN401 - inputs' values
        return look(view, values, shown)

    def on_go(event: gr.EventData) -> gr.Tabs:
        return gr.Tabs(selected=str(event._data.get("choice", "data")))

    handler = guarded(view, on_look)
    gr.on(list(events), handler, [view, *watched], view, trigger_mode="always_last", **QUIET)
    view.click(on_go, None, tabs, **QUIET)
