"""The page: four tabs, one timer and what the address says. Floor 5.

`wire_*` join components to handlers; a handler reads values, calls one function and returns what
changed. The page never imports torch; runs and chat are processes of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from orpo_qlora.ui import next_step
from orpo_qlora.ui.chat import tab as chat_tab
from orpo_qlora.ui.chat.tab import ChatTab
from orpo_qlora.ui.chat.wiring import wire_chat_tab, wire_votes_to_data
from orpo_qlora.ui.data import tab as data_tab
from orpo_qlora.ui.data import token_panel
from orpo_qlora.ui.data.tab import DataTab
from orpo_qlora.ui.data.wiring import look_after, wire_data_tab
from orpo_qlora.ui.parts import theme
from orpo_qlora.ui.parts.events import QUIET, READING, parameters_of
from orpo_qlora.ui.parts.guard import Updates, guarded
from orpo_qlora.ui.runs import tab as runs_tab
from orpo_qlora.ui.runs.tab import RunsTab
from orpo_qlora.ui.train import tab as train_tab
from orpo_qlora.ui.train.estimate_panel import wire_plan_panel
from orpo_qlora.ui.train.preset_wiring import wire_preset_panel
from orpo_qlora.ui.train.tab import TrainTab

POLL_SECONDS = 2.0
CACHE_SECONDS = (3600, 86_400)
"""How often old uploads are looked for, and how old they may get; the home has its own copy."""

HEADER = """
<div class="brand">
  <span class="brand-name">orpo-qlora</span>
  <span class="brand-line">Preference tuning you can watch</span>
</div>
"""


TABS = ("data", "train", "runs", "chat")


@dataclass(frozen=True)
class Studio:
    """The page's parts."""

    address: gr.Textbox
    """The parameters the page was opened with, as a JSON object."""
    tabs: gr.Tabs
    timer: gr.Timer
    turn: gr.Button
    """Pressed by the timer's script when the page has to ask Gradio."""
    data: DataTab
    train: TrainTab
    runs: RunsTab
    chat: ChatTab

    @property
    def train_inputs(self) -> list[Any]:
        """What decides whether training can start: the data and every setting."""
        return [self.data.dataset_id, *self.train.form.inputs]


def build_studio() -> gr.Blocks:
    """Return the page, wired but not served."""
    with gr.Blocks(title="orpo-qlora", analytics_enabled=False, delete_cache=CACHE_SECONDS) as page:
        gr.HTML(HEADER, elem_id="brand")
        line = next_step.build_next_step()
        with gr.Tabs(elem_id="tabs") as tabs:
            data = data_tab.build_data_tab()
            train = train_tab.build_train_tab()
            runs = runs_tab.build_runs_tab()
            chat = chat_tab.build_chat_tab()
        address = gr.Textbox(visible="hidden", elem_id="address", label="Address")
        turn = gr.Button("Look", visible="hidden", elem_id="run-turn")
        timer = gr.Timer(POLL_SECONDS, active=False)
        studio = Studio(address, tabs, timer, turn, data, train, runs, chat)
        loaded = _wire_address(studio, page)
        _wire_data(studio)
        _wire_train(studio)
        _wire_runs(studio)
        _wire_chat(studio, loaded)
        _wire_next_step(studio, line)
    return page


def _wire_next_step(studio: Studio, line: gr.HTML) -> None:
    data, runs = studio.data, studio.runs
    events = [data.dataset_id.change, data.account.change, data.card.change]
    events += [runs.seen.change, runs.picker.change, runs.report.view.change]
    events += [studio.train.reason.change, studio.train.plan.view.change]
    events += [tab.select for tab in (data.tab, studio.train.tab, runs.tab, studio.chat.tab)]
    watched = [runs.picker, *studio.train_inputs]
    next_step.wire_next_step(line, studio.tabs, watched, events)


def _wire_address(studio: Studio, page: gr.Blocks) -> Any:  # noqa: ANN401 - gradio's dependency
    """Put what is shown into the page's address, and show what the address says."""
    remembered = {
        "data": studio.data.dataset_id,
        "run": studio.runs.picker,
        "chat": studio.chat.conversation_id,
    }
    for name, component in remembered.items():
        component.change(None, component, None, js=theme.remember(name))

    # What the address does not name is left alone: somebody may have chosen it by the time a slow
    # answer comes.
    def on_load_data(address: str) -> Updates | None:
        asked = parameters_of(address).get("data", "")
        return data_tab.dataset_updates(studio.data, asked) if asked else None

    def on_load_run(address: str) -> Updates:
        parameters = parameters_of(address)
        asked = parameters.get("run") or parameters.get("compare")
        tab = parameters.get("tab", "runs" if asked else "data")
        run_id = runs_tab.opened_run(parameters)
        return {
            **(runs_tab.select_updates(studio.runs, run_id) if run_id else {}),
            **chat_tab.select_updates(studio.chat, run_id),
            # The first tab is open already, and the person may have opened another by now.
            **({studio.tabs: gr.Tabs(selected=tab)} if tab in TABS[1:] else {}),
        }

    nothing = data_tab.dataset_updates(studio.data, "")
    handler = guarded(studio.data.card, on_load_data, nothing)
    page.load(train_tab.new_ticket, None, studio.train.ticket, **QUIET)
    data_parts = (studio.address, studio.data.outputs)
    _check_train_after(studio, page.load(handler, *data_parts, **READING))
    # The tab opens when it is known what it shows: opened before, it would ask for the list, and a
    # late answer would put that in the place of a comparison.
    restored = runs_tab.wire_restore(studio.runs, page, studio.address)
    handler = guarded(studio.runs.card, on_load_run, {studio.tabs: gr.update(selected="runs")})
    parts = [studio.tabs, studio.runs.card, studio.runs.picker, *studio.chat.selection]
    return restored.then(handler, studio.address, parts, **READING)


def _wire_data(studio: Studio) -> None:
    wire_data_tab(studio.data, _token_settings(studio), partial(_check_train_after, studio))
    go_on = studio.data.go_on
    go_on.click(lambda: gr.Tabs(selected="train"), None, studio.tabs, **QUIET)


def _token_settings(studio: Studio) -> dict[str, Any]:
    """Return the settings that decide what a pair looks like to the model."""
    return {name: studio.train.form.components[name] for name in token_panel.SETTINGS}


def _check_train_after(studio: Studio, event: Any) -> None:  # noqa: ANN401 - gradio's dependency
    """See once an event is over whether training can start."""
    handler, outputs = _on_check(studio), studio.train.outputs
    event.then(handler, studio.train_inputs, outputs, **QUIET)


def _on_check(studio: Studio) -> Callable[..., Any]:
    def on_check(dataset_id: str, *values: object) -> Updates:
        return train_tab.readiness_updates(studio.train, dataset_id, values)

    return guarded(studio.train.card, on_check)


def _wire_train(studio: Studio) -> None:
    train, runs = studio.train, studio.runs

    def on_start(ticket: str, dataset_id: str, *values: object) -> Updates:
        paths = train_tab.start_run(dataset_id, values, ticket)
        return {
            train.ticket: train_tab.new_ticket(),
            **runs_tab.select_updates(runs, paths.id),
            **train_tab.readiness_updates(train, dataset_id, values),
            studio.tabs: gr.Tabs(selected="runs"),
            studio.timer: gr.Timer(active=True),
        }

    edits = [component.input for component in train.form.inputs]
    check, inputs = _on_check(studio), studio.train_inputs
    gr.on(edits, check, inputs, train.outputs, trigger_mode="always_last", **QUIET)
    train.tab.select(check, inputs, train.outputs, **QUIET)
    filled = wire_preset_panel(train.presets, train.form, [*edits, train.tab.select])
    for event in filled:
        _check_train_after(studio, event)
    handler = guarded(train.card, on_start)
    parts = [*train.outputs, train.ticket, runs.picker, studio.tabs, studio.timer]
    ordered = [train.ticket, *inputs]
    train.start.click(handler, ordered, parts, trigger_mode="once", **QUIET)
    edits = [*edits, studio.data.dataset_id.change, train.tab.select]
    wire_plan_panel(train.plan, inputs, edits, filled)


def _wire_runs(studio: Studio) -> None:
    page = runs_tab.Page(
        studio.tabs, studio.timer, studio.turn, studio.data, studio.train, studio.chat
    )
    for event in runs_tab.wire_runs_tab(studio.runs, page):
        _check_train_after(studio, event)


def _wire_chat(studio: Studio, loaded: Any) -> None:  # noqa: ANN401 - gradio's dependency
    wire_chat_tab(studio.chat, studio.address, loaded)
    event = wire_votes_to_data(studio.chat, studio.data, studio.tabs)
    _check_train_after(studio, event)
    look_after(studio.data, _token_settings(studio), event)
