"""The Train tab: settings, and the button that starts a run or says why it cannot."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from orpo_qlora.config import TrainConfig
from orpo_qlora.data.doctor.examine import too_many_passes
from orpo_qlora.errors import ConfigError, InputError, OrpoQloraError
from orpo_qlora.models.machine import Machine, this_machine
from orpo_qlora.runs import store
from orpo_qlora.runs.process import launch
from orpo_qlora.runs.store import RunPaths
from orpo_qlora.ui.data import token_panel, uploads
from orpo_qlora.ui.history import sweep_panel
from orpo_qlora.ui.history.sweep_panel import SweepPanel
from orpo_qlora.ui.parts import cards
from orpo_qlora.ui.parts.guard import Updates
from orpo_qlora.ui.train import estimate_panel, form, preset_panel
from orpo_qlora.ui.train.estimate_panel import EstimatePanel
from orpo_qlora.ui.train.form import Form
from orpo_qlora.ui.train.preset_panel import PresetPanel

START = "Start training"
QUEUE = "Add to the queue"


@dataclass(frozen=True)
class TrainTab:
    """The components of the tab."""

    tab: gr.Tab
    data: gr.HTML
    presets: PresetPanel
    form: Form
    card: gr.HTML
    reason: gr.HTML
    start: gr.Button
    ticket: gr.Textbox
    """Marks the next order, so that pressing twice is one run."""
    plan: EstimatePanel
    sweep: SweepPanel

    @property
    def outputs(self) -> list[Any]:
        """What tells whether training can start."""
        return [self.card, self.data, self.reason, self.start]


def build_train_tab(machine: Machine | None = None) -> TrainTab:
    """Return the tab's components, showing the preset that fits the machine; this one if None."""
    machine = machine or this_machine()
    with gr.Tab("Train", id="train", elem_id="tab-train", render_children=True) as tab:
        gr.HTML(
            cards.heading(
                "Settings",
                "A preset fills everything in for your hardware; change what you like. Each "
                "setting has the same name here, in the presets and on the command line.",
            )
        )
        data = gr.HTML(elem_id="train-data")
        presets = preset_panel.build_preset_panel(machine)
        values = form.named_values(form.config_of_preset(machine.preset))
        components = _build_settings(values)
        offered = sweep_panel.offered_text(values["lambda"])
        sweep = sweep_panel.build_sweep_panel("train-sweep", offered)
        card = gr.HTML(elem_id="train-error")
        with gr.Row(elem_classes="actions", elem_id="train-actions"):
            start = gr.Button(
                START,
                variant="primary",
                interactive=False,
                elem_id="train-start",
                scale=0,
                min_width=200,
            )
            plan = estimate_panel.build_plan_panel()
            reason = gr.HTML(elem_id="train-reason")
        ticket = gr.Textbox(visible="hidden", elem_id="train-ticket", label="Order")
    in_order = {name: components[name] for name in form.setting_names()}
    return TrainTab(tab, data, presets, Form(in_order), card, reason, start, ticket, plan, sweep)


def _build_settings(values: Mapping[str, object]) -> dict[str, Any]:
    """Return the input of every setting: the basic ones first, the others folded by group."""
    components: dict[str, Any] = {}
    with gr.Group(elem_classes="settings-grid"):
        for name in form.basic_settings():
            components[name] = form.build_component(name, values[name])
    for group, names in form.folded_settings().items():
        fold = gr.Accordion(group, open=False, elem_id=f"group-{group.lower()}")
        with fold, gr.Group(elem_classes="settings-grid"):
            for name in names:
                components[name] = form.build_component(name, values[name])
    return components


def readiness_updates(tab: TrainTab, dataset_id: str, values: Sequence[object]) -> Updates:
    """Return whether training can start and, if not, why."""
    reason, active = reason_against(dataset_id, values), store.active_run()
    waits = ""
    if active is not None:
        waits = f"Run “{active.title}” is {active.state.status}; this one starts after it."
    return {
        tab.data: _data_line(dataset_id, values),
        tab.start: gr.Button(QUEUE if active else START, interactive=not reason),
        tab.reason: cards.reason(reason or waits),
    }


def reason_against(dataset_id: str, values: Sequence[object]) -> str:
    """Return why training cannot start now, empty if it can."""
    if not dataset_id:
        return "Choose preference pairs on the Data tab first."
    try:
        uploads.open_dataset(dataset_id)
        form.config_from(values)
    except InputError as exc:
        return exc.message
    return ""


def _data_line(dataset_id: str, values: Sequence[object]) -> str:
    if not dataset_id:
        return ""
    try:
        report = uploads.open_dataset(dataset_id).report
        remarks = _remarks(dataset_id, form.config_from(values), report.pairs)
    except ConfigError:
        remarks = []  # said beside the button
    except OrpoQloraError:
        return ""
    sentences = [*report.sentences()[:1], *remarks]
    return cards.account(f"Training data: {report.source}", sentences)


def _remarks(dataset_id: str, config: TrainConfig, pairs: int) -> list[str]:
    """Return what these settings will do to the pairs."""
    passes = too_many_passes(pairs, config)
    told = [passes.sentence()] if passes else []
    return [*filter(None, [token_panel.length_sentence(dataset_id, config)]), *told]


def new_ticket() -> str:
    """Return a mark for the next order."""
    return secrets.token_hex(8)


def start_run(dataset_id: str, values: Sequence[object], ticket: str = "") -> RunPaths:
    """Start or queue a run from what the page holds; the same order twice is one run.

    Raises:
        ConfigError: lists every wrong setting.
        DataError: the data are not there any more.
    """
    return launch.start_run(form.config_from(values), uploads.open_dataset(dataset_id), ticket)
