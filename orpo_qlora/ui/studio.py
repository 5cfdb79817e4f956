"""The page: its four tabs, connected to each other, to the timer and to the page's address.

Each tab builds its components and connects them; what it needs from another tab is passed here.
The page never imports torch; runs and chat are processes of their own.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr
from gradio.blocks import Block

from orpo_qlora.ui import next_step
from orpo_qlora.ui.chat import tab as chat_tab
from orpo_qlora.ui.chat.tab import ChatTab
from orpo_qlora.ui.chat.votes_panel import connect_votes_to_data
from orpo_qlora.ui.data import tab as data_tab
from orpo_qlora.ui.data import token_panel
from orpo_qlora.ui.data.tab import DataTab
from orpo_qlora.ui.parts import theme
from orpo_qlora.ui.parts.events import QUIET, READING, parameters_of
from orpo_qlora.ui.parts.guard import Updates, guarded
from orpo_qlora.ui.runs import tab as runs_tab
from orpo_qlora.ui.runs.tab import RunsTab
from orpo_qlora.ui.train import recipe_card
from orpo_qlora.ui.train import tab as train_tab
from orpo_qlora.ui.train.tab import RunOpening, TrainTab

POLL_SECONDS = 2.0
CACHE_SECONDS = (3600, 86_400)
"""How often Gradio deletes its copies of uploads, and their maximum age."""

HEADER = """
<div class="brand">
  <span class="brand-name">orpo-qlora</span>
  <span class="brand-line">Preference tuning you can watch</span>
</div>
"""


TABS = ("data", "train", "runs", "chat")


@dataclass(frozen=True)
class Studio:
    """The page's components."""

    address: gr.Textbox
    """The page's URL parameters when it was opened, as a JSON object."""
    tabs: gr.Tabs
    timer: gr.Timer
    refresh: gr.Button
    """Pressed by the timer's script when a poll found changes."""
    data: DataTab
    train: TrainTab
    runs: RunsTab
    chat: ChatTab

    @property
    def train_inputs(self) -> list[Any]:
        """The data and every setting, which decide whether training can start."""
        return [self.data.dataset_id, *self.train.form.inputs]


def build_studio() -> gr.Blocks:
    """Return the page with all handlers connected, not served yet."""
    _keep_signatures()
    with gr.Blocks(title="orpo-qlora", analytics_enabled=False, delete_cache=CACHE_SECONDS) as page:
        gr.HTML(HEADER, elem_id="brand")
        line = next_step.build()
        with gr.Tabs(elem_id="tabs") as tabs:
            data = data_tab.build()
            train = train_tab.build()
            runs = runs_tab.build()
            chat = chat_tab.build()
        address = gr.Textbox(visible="hidden", elem_id="address", label="Address")
        refresh = gr.Button("Refresh", visible="hidden", elem_id="run-refresh")
        timer = gr.Timer(POLL_SECONDS, active=False)
        studio = Studio(
            address=address,
            tabs=tabs,
            timer=timer,
            refresh=refresh,
            data=data,
            train=train,
            runs=runs,
            chat=chat,
        )
        loaded = _connect_address(studio, page)
        _connect_data(studio)
        _connect_train(studio)
        _connect_runs(studio)
        _connect_chat(studio, loaded)
        _connect_next_step(studio, line)
    return page


def _keep_signatures() -> None:
    """Let `inspect` compute the signature of each component's constructor once.

    Gradio asks for all of them several times at start and for every new tab, and for those of the
    changed components at each event: half of the time that a new tab takes.
    """
    for kind in _kinds_of(Block):
        outer = kind.__init__
        for constructor in (inspect.unwrap(outer), outer):
            constructor.__signature__ = inspect.signature(constructor)


def _kinds_of(base: type[Block]) -> Iterator[Any]:
    yield base
    for kind in base.__subclasses__():
        yield from _kinds_of(kind)


def _connect_next_step(studio: Studio, line: gr.HTML) -> None:
    data, train, runs = studio.data, studio.train, studio.runs
    changes = [data.dataset_id, data.summary, data.card]
    changes += [train.reason, train.card, train.estimate.view]
    changes += [runs.seen, runs.picker, runs.run.report.view]
    events = [component.change for component in changes]
    events += [tab.select for tab in (data.tab, train.tab, runs.tab, studio.chat.tab)]
    inputs = [runs.picker, data.card, train.card, *studio.train_inputs]
    next_step.connect(line, studio.tabs, inputs, events)


def _connect_address(studio: Studio, page: gr.Blocks) -> Any:  # noqa: ANN401 - gradio's dependency
    """Keep the page's state in its address, and restore it from there; return the last event."""
    remembered = {
        "data": studio.data.dataset_id,
        "run": studio.runs.picker,
        "chat": studio.chat.conversation_id,
    }
    for name, component in remembered.items():
        component.change(None, component, None, js=theme.remember(name))

    # Only what the address names is set: the user may have chosen the rest before a slow response.
    def on_load_data(address: str) -> Updates | None:
        dataset_id = parameters_of(address).get("data", "")
        return data_tab.dataset_updates(studio.data, dataset_id) if dataset_id else None

    def on_load_run(address: str) -> Updates:
        parameters = parameters_of(address)
        has_run = parameters.get("run") or parameters.get("compare")
        tab = parameters.get("tab", "runs" if has_run else "data")
        run_id = runs_tab.opened_run(parameters)
        return {
            **(runs_tab.select_updates(studio.runs, run_id) if run_id else {}),
            **chat_tab.select_updates(studio.chat, run_id),
            # The first tab is open already; selecting it could undo a click of the user.
            **({studio.tabs: gr.Tabs(selected=tab)} if tab in TABS[1:] else {}),
        }

    nothing = data_tab.dataset_updates(studio.data, "")
    handler = guarded(studio.data.card, on_load_data, nothing)
    page.load(train_tab.new_ticket, None, studio.train.ticket, **QUIET)
    data_parts = (studio.address, studio.data.outputs)
    _check_train_after(studio, page.load(handler, *data_parts, **READING))
    # The tab opens when it is known what it shows: opened before, it would ask for the list, and a
    # late answer would put that in the place of a comparison.
    restored = runs_tab.connect_restore(studio.runs, page, studio.address)
    handler = guarded(studio.runs.card, on_load_run, {studio.tabs: gr.update(selected="runs")})
    parts = [studio.tabs, studio.runs.card, studio.runs.picker, *studio.chat.selection]
    return restored.then(handler, studio.address, parts, **READING)


def _connect_data(studio: Studio) -> None:
    after = partial(_check_train_after, studio)
    data_tab.connect(studio.data, studio.tabs, _token_settings(studio), after)


def _token_settings(studio: Studio) -> dict[str, Any]:
    """Return the form's inputs that the token panel depends on, by setting name."""
    return {name: studio.train.form.components[name] for name in token_panel.SETTINGS}


def _check_train_after(studio: Studio, event: Any) -> None:  # noqa: ANN401 - gradio's dependency
    """Check whether training can start after an event that changes data or settings."""
    train_tab.check_after(studio.train, studio.data.dataset_id, event)


def _connect_train(studio: Studio) -> None:
    def open_run(run_id: str) -> Updates:
        return {
            **runs_tab.select_updates(studio.runs, run_id),
            studio.tabs: gr.Tabs(selected="runs"),
            studio.timer: gr.Timer(active=True),
        }

    opening = RunOpening([studio.runs.picker, studio.tabs, studio.timer], open_run)
    train_tab.connect(studio.train, studio.data.dataset_id, opening)
    recipe_card.connect(studio.train.recipe, studio.train.presets.picker, studio.data.hub)


def _connect_runs(studio: Studio) -> None:
    page = runs_tab.Page(
        tabs=studio.tabs,
        timer=studio.timer,
        refresh=studio.refresh,
        data=studio.data,
        train=studio.train,
        chat=studio.chat,
    )
    for event in runs_tab.connect(studio.runs, page):
        _check_train_after(studio, event)


def _connect_chat(studio: Studio, loaded: Any) -> None:  # noqa: ANN401 - gradio's dependency
    chat_tab.connect(studio.chat, studio.address, loaded)
    view = studio.chat.view
    event = connect_votes_to_data(view.panel, view.card, studio.data, studio.tabs)
    _check_train_after(studio, event)
    data_tab.refresh_tokens_after(studio.data, _token_settings(studio), event)
