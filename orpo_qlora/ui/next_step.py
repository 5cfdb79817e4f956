"""The line above the tabs that names the next step; after an error, the way out of it."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from orpo_qlora.errors import ConfigError, DataError, InputError, UnknownRun
from orpo_qlora.evaluation import request as evaluation_request
from orpo_qlora.runs import store
from orpo_qlora.runs.process import queue as run_queue
from orpo_qlora.runs.store import Run
from orpo_qlora.ui.data import findings_view, uploads
from orpo_qlora.ui.parts import cards, form
from orpo_qlora.ui.parts.buttons import CHOICE_SCRIPT, choice_button, choice_of
from orpo_qlora.ui.parts.events import QUIET
from orpo_qlora.ui.parts.guard import Updates, guarded
from orpo_qlora.ui.train import estimate_panel

TABS = {"data": "Data", "train": "Train", "runs": "Runs", "chat": "Chat"}
"""Titles of the tabs a step can lead to, by the tab's id."""
TEXT_CHARACTERS = 300
"""Longest step; an error may quote a long value."""


@dataclass(frozen=True)
class PageState:
    """What the page shows, as far as the next step depends on it."""

    run_id: str = ""
    """The run that is shown, empty for none."""
    data_card: str = ""
    """The Data tab's error card as HTML, empty for none."""
    train_card: str = ""
    """The Train tab's error card as HTML, empty for none."""
    dataset_id: str = ""
    """The chosen file, empty for none."""
    settings: Sequence[object] = ()
    """The values of the form's inputs."""

    @classmethod
    def of(cls, values: Sequence[Any]) -> PageState:
        """Return the state from the values of `connect`'s inputs; a browser may send None."""
        run_id, data_card, train_card, dataset_id, *settings = values
        return cls(run_id or "", data_card or "", train_card or "", dataset_id or "", settings)


@dataclass(frozen=True)
class Step:
    """What to do next, and on which tab."""

    text: str
    tab: str


def build() -> gr.HTML:
    """Return the line as a new visitor sees it."""
    return gr.HTML(render(_choose_data("")), elem_id="next-step", js_on_load=CHOICE_SCRIPT)


def next_step(state: PageState) -> Step:
    """Return what to do next."""
    active = store.active_run()
    if active is not None:
        return Step(f"watch “{active.title}” train; you may close the page meanwhile.", "runs")
    if run_queue.queued_runs():
        return Step("wait a moment: a queued run is about to start.", "runs")
    run = _ended_run(state.run_id)
    if run is not None and (not state.dataset_id or run.report.sha256 == state.dataset_id):
        return _after_run(run)
    return _before_run(state)


def _ended_run(run_id: str) -> Run | None:
    try:
        return store.read_run(store.paths_of(run_id)) if run_id else None
    except UnknownRun:
        return None


def _after_run(run: Run) -> Step:
    if run.state.status == "failed":
        hint = run.state.error.hint if run.state.error else ""
        return Step(f"“{run.title}” failed. {hint or 'Read its log, then resume it.'}", "runs")
    if (
        evaluation_request.is_evaluable(run)
        and evaluation_request.read_evaluation(run).card is None
    ):
        return Step(
            f"press “Evaluate” to measure what “{run.title}” learnt, then chat with it.", "runs"
        )
    if run.has_adapter:
        return Step(f"chat with “{run.title}” beside the base model.", "chat")
    return Step(f"“{run.title}” ended early: resume it, or start another run.", "runs")


def _before_run(state: PageState) -> Step:
    if not state.dataset_id:
        return _choose_data(state.data_card)
    try:
        uploads.open_upload(state.dataset_id)
    except DataError as error:
        return Step(_as_step(findings_view.way_out(error)), "data")
    try:
        form.config_from(state.settings)
    except ConfigError as error:
        return Step(f"correct the setting {_as_step(error.message)}", "train")
    return _start(state)


def _choose_data(card: str) -> Step:
    """Return the step without pairs: to choose some, or out of the error that prevented it."""
    if cards.is_error(card):
        hint = cards.hint_of(card) or "Correct the file and upload it again."
        return Step(_as_step(hint), "data")
    return Step("choose an example or upload your own file.", "data")


def _start(state: PageState) -> Step:
    """Return the step with pairs and settings that can be used."""
    hint = cards.hint_of(state.train_card)
    if hint:
        return Step(_as_step(hint), "train")
    try:
        estimate = estimate_panel.requested(state.dataset_id, state.settings)
    except InputError as error:
        return Step(_as_step(error.hint or error.message), "train")
    if estimate is None:
        return Step(
            "press “Estimate” to see memory, disk and time, then “Start training”.", "train"
        )
    if estimate.state.error is not None and estimate.state.error.hint:
        return Step(_as_step(estimate.state.error.hint), "train")
    return Step("press “Start training”.", "train")


def _as_step(text: str) -> str:
    """Return a sentence to follow “Next:”, cut at `TEXT_CHARACTERS`."""
    if len(text) > TEXT_CHARACTERS:
        text = f"{text[:TEXT_CHARACTERS]} …"
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]


def render(step: Step) -> str:
    """Return the line as HTML; CSS hides its button on the tab it leads to."""
    button = choice_button(step.tab, f"Go to {TABS[step.tab]}", "quiet-button")
    return (
        f'<p class="next-step"><span role="status"><strong>Next:</strong> {html.escape(step.text)}'
        f"</span> {button}</p>"
    )


def refresh(view: gr.HTML, shown: str, state: PageState) -> Updates | None:
    """Return the line for a state of the page, or None if it is the line that is shown."""
    line = render(next_step(state))
    return {view: line} if line != shown else None


def connect(view: gr.HTML, tabs: gr.Tabs, inputs: Sequence[Any], events: Sequence[Any]) -> None:
    """Connect the line to the page.

    Args:
        view: the line.
        tabs: the page's tabs, which the line's button selects.
        inputs: the fields of `PageState` in its order, the form's inputs last.
        events: event listeners after which another step may be next.
    """

    def on_change(shown: str, *values: Any) -> Updates | None:  # noqa: ANN401 - inputs' values
        return refresh(view, shown, PageState.of(values))

    def on_go(event: gr.EventData) -> gr.Tabs:
        return gr.Tabs(selected=choice_of(event) or "data")

    handler = guarded(view, on_change)
    gr.on(list(events), handler, [view, *inputs], view, trigger_mode="always_last", **QUIET)
    view.click(on_go, None, tabs, **QUIET)
