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

from orpo_qlora.charts import view as chart_view
from orpo_qlora.charts.view import Choices
from orpo_qlora.runs import store
from orpo_qlora.runs.process import launch
from orpo_qlora.runs.process import queue as run_queue
from orpo_qlora.ui import next_step
from orpo_qlora.ui.chat import tab as chat_tab
from orpo_qlora.ui.chat.tab import ChatTab
from orpo_qlora.ui.chat.votes_panel import wire_votes_to_data
from orpo_qlora.ui.data import tab as data_tab
from orpo_qlora.ui.data import token_panel
from orpo_qlora.ui.data.tab import DataTab
from orpo_qlora.ui.data.wiring import look_after, wire_data_tab
from orpo_qlora.ui.history.history_wiring import (
    wire_again,
    wire_history,
    wire_restore,
    wire_run_files,
    wire_sweeps,
)
from orpo_qlora.ui.parts import theme
from orpo_qlora.ui.parts.events import QUIET, READING, parameters_of
from orpo_qlora.ui.parts.guard import Updates, guarded
from orpo_qlora.ui.runs import live_view
from orpo_qlora.ui.runs import tab as runs_tab
from orpo_qlora.ui.runs.actions import wire_run_actions
from orpo_qlora.ui.runs.export_panel import wire_take_home
from orpo_qlora.ui.runs.report_card import wire_report_panel
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
    restored = wire_restore(studio.runs, page, studio.address)
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
    runs = studio.runs

    def on_chat(run_id: str) -> Updates:
        chosen = chat_tab.select_updates(studio.chat, run_id)
        return {**chosen, studio.tabs: gr.Tabs(selected="chat")}

    _wire_shown_run(studio)
    live_view.wire_memory(runs.live)
    wire_report_panel(runs.report, runs.picker)
    wire_take_home(runs.take_home, runs.picker, runs.card)
    parts = [runs.card, studio.tabs, *studio.chat.selection]
    runs.chat.click(guarded(runs.card, on_chat), runs.picker, parts, **QUIET)
    wire_history(runs, _wire_watch(studio))
    wire_run_files(runs)
    _check_train_after(studio, wire_again(runs, studio.data, studio.train, studio.tabs))
    for event in wire_sweeps(runs, studio.data, studio.train, studio.tabs):
        event.success(lambda: gr.Timer(active=True), None, studio.timer, **QUIET)


def _wire_shown_run(studio: Studio) -> None:
    """Draw the run that is picked, as the person chose to see it, and after what is done to it."""
    runs = studio.runs
    choices = runs.live.choices

    def on_show(run_id: str | None, *chosen: object) -> Updates:
        updates = runs_tab.show_updates(runs, run_id, chosen=Choices.of(chosen))
        is_active = is_busy() or runs_tab.awaits_more(run_id)
        return {**(updates or {}), studio.timer: gr.Timer(active=is_active)}

    def on_pick(run_id: str | None, address: str, *chosen: object) -> Updates:
        # Back at the list, what went wrong with a run is still to be read.
        answered: Updates = {runs.card: ""} if run_id else {}
        parameters = parameters_of(address)
        if run_id and parameters.get("run") == run_id:
            view = live_view.restored_updates(runs.live, parameters, run_id)
            return {**answered, **on_show(run_id, *chart_view.values_in(parameters)), **view}
        kept = chosen[: live_view.KEPT_CHOICES]
        return {**answered, **on_show(run_id, *kept), **live_view.anew_updates(runs.live)}

    shown, picked = [*runs.outputs, studio.timer], [runs.picker, *choices]
    handler = guarded(runs.card, on_pick, keeps_card=True)
    inputs = [runs.picker, studio.address, *choices]
    outputs = list(dict.fromkeys([*shown, *choices]))
    runs.picker.change(handler, inputs, outputs, js=theme.READ_VIEW, **QUIET)
    gr.on(
        [component.change for component in choices],
        guarded(runs.card, _on_look(runs)),
        [runs.picker, runs.seen, *choices],
        runs.outputs,
        trigger_mode="always_last",
        **QUIET,
    )
    # Not gr.Timer: while the page is built that puts another one on it.
    awake = {studio.timer: gr.update(active=True)}
    wire_run_actions(runs.actions, picked, runs.card, on_show, shown, awake)


def _on_look(runs: RunsTab) -> Callable[..., Updates | None]:
    """Return what draws the parts of a run that changed since they were drawn."""

    def on_look(run_id: str | None, seen: str, *chosen: object) -> Updates | None:
        return runs_tab.show_updates(runs, run_id, seen, Choices.of(chosen)) if run_id else None

    return on_look


def _wire_watch(studio: Studio) -> Any:  # noqa: ANN401 - gradio's dependency
    """Follow the run that is shown; return the event in which the page's timer is answered."""
    runs = studio.runs
    chosen = [runs.picker, runs.seen, *runs.live.choices]
    look_again = _on_look(runs)

    def on_tick(*values: Any) -> Updates | None:  # noqa: ANN401 - whatever the inputs hold
        seen, (picked, *rest) = values[: len(chosen)], values[len(chosen) :]
        updates = look_again(*seen)
        if is_busy() or runs_tab.awaits_more(seen[0]):
            return updates
        return {
            **(updates or {}),
            **chat_tab.select_updates(studio.chat, picked),
            **train_tab.readiness_updates(studio.train, rest[0], rest[1:]),
            studio.timer: gr.Timer(active=False),
        }

    studio.timer.tick(None, chosen, None, js=theme.LOOK)
    watched = [*chosen, studio.chat.picker, *studio.train_inputs]
    parts = [*runs.outputs, studio.timer, *studio.chat.selection, *studio.train.outputs]
    handler = guarded(runs.card, on_tick, keeps_card=True)
    return studio.turn.click(handler, watched, parts, **QUIET)


def is_busy() -> bool:
    """Tell whether a run is at work or waits; one that waits in vain is started."""
    if store.active_run() is not None:
        return True
    if not run_queue.queued_runs():
        return False
    launch.start_next()  # in case whoever should have done so is gone
    return True


def _wire_chat(studio: Studio, loaded: Any) -> None:  # noqa: ANN401 - gradio's dependency
    chat_tab.wire_chat_tab(studio.chat, studio.address, loaded)
    view = studio.chat.view
    event = wire_votes_to_data(view.panel, view.card, studio.data, studio.tabs)
    _check_train_after(studio, event)
    look_after(studio.data, _token_settings(studio), event)
