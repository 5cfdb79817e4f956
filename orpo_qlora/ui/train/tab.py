"""The Train tab: settings, and the button that starts a run or says why it cannot."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from orpo_qlora import methods
from orpo_qlora.config import TrainConfig
from orpo_qlora.data.doctor.examine import too_many_passes
from orpo_qlora.data.summary import DataSummary
from orpo_qlora.errors import ConfigError, InputError, ModelError, OrpoQloraError
from orpo_qlora.models.catalogue import find_model
from orpo_qlora.models.devices.machine import Machine, this_machine
from orpo_qlora.models.templates import chat_templates, tokenizer_files
from orpo_qlora.runs import present, store
from orpo_qlora.runs.process import launch
from orpo_qlora.runs.process.data_for_method import balance_sentence, check_data
from orpo_qlora.runs.process.start import with_start
from orpo_qlora.runs.store import RunPaths
from orpo_qlora.ui.data import token_panel, uploads
from orpo_qlora.ui.history import sweep_panel
from orpo_qlora.ui.history.sweep_panel import SweepPanel
from orpo_qlora.ui.parts import cards, form
from orpo_qlora.ui.parts.events import QUIET
from orpo_qlora.ui.parts.form import Form
from orpo_qlora.ui.parts.guard import Updates, guarded
from orpo_qlora.ui.train import estimate_panel, preset_panel, recipe_card, start_panel
from orpo_qlora.ui.train.estimate_panel import EstimatePanel
from orpo_qlora.ui.train.preset_panel import PresetPanel

START = "Start training"
QUEUE = "Add to the queue"
UNKNOWN_TEMPLATE = "Whether {} has a chat template is known once its tokenizer is on this disk."
OTHER_TEMPLATE = "“Chat template” under Model below chooses another one."


@dataclass(frozen=True)
class TrainTab:
    """The components of the tab."""

    tab: gr.Tab
    data: gr.HTML
    presets: PresetPanel
    recipe: gr.HTML
    form: Form
    template: gr.HTML
    """Which chat template is used, unless the model's own."""
    card: gr.HTML
    reason: gr.HTML
    start: gr.Button
    ticket: gr.Textbox
    """Sent with the next start, so that pressing twice starts one run."""
    estimate: EstimatePanel
    sweep: SweepPanel

    @property
    def outputs(self) -> list[Any]:
        """Every component that shows whether training can start."""
        return [self.card, self.data, self.template, self.reason, self.start]


def build(machine: Machine | None = None) -> TrainTab:
    """Return the tab's components, filled in with the preset for a machine (None: this one)."""
    machine = machine or this_machine()
    with gr.Tab("Train", id="train", elem_id="tab-train", render_children=True) as tab:
        gr.HTML(
            cards.heading(
                "Settings",
                "A preset fills in all settings for your hardware; change any of them. Names are "
                "the same in presets and on the command line.",
            )
        )
        data = gr.HTML(elem_id="train-data")
        presets = preset_panel.build(machine)
        recipe = recipe_card.build()
        values = form.named_values(form.config_of_preset(machine.preset))
        components = _build_basic(values)
        template = gr.HTML(elem_id="train-template")
        components |= _build_folds(values)
        offered = sweep_panel.offered_text("lambda", values["lambda"])
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
            estimate = estimate_panel.build()
            reason = gr.HTML(elem_id="train-reason")
        ticket = gr.Textbox(visible="hidden", elem_id="train-ticket", label="Ticket")
    return TrainTab(
        tab=tab,
        data=data,
        presets=presets,
        recipe=recipe,
        form=Form({name: components[name] for name in form.setting_names()}),
        template=template,
        card=card,
        reason=reason,
        start=start,
        ticket=ticket,
        estimate=estimate,
        sweep=sweep,
    )


@dataclass(frozen=True)
class RunOpening:
    """How the page opens a new run."""

    outputs: list[Any]
    updates: Callable[[str], Updates]
    """Takes the run's id."""


def connect(tab: TrainTab, dataset_id: gr.Textbox, opening: RunOpening) -> None:
    """Connect the tab's components to their handlers.

    Args:
        tab: the tab's components.
        dataset_id: the Data tab's chosen file.
        opening: shows the run that “Start training” has started.
    """

    def on_start(ticket: str, dataset_id: str, *values: object) -> Updates:
        run_id = start_run(dataset_id, values, ticket).id
        return {
            tab.ticket: new_ticket(),
            **readiness_updates(tab, dataset_id, values),
            **opening.updates(run_id),
        }

    inputs = [dataset_id, *tab.form.inputs]
    edits = [component.input for component in tab.form.inputs]
    _connect_method(tab.form)
    check = _on_check(tab)
    # One listener of each edit; the others follow it. Of two with “always_last” on one event, each
    # repeats the event for both when it ends: after two quick edits Gradio never comes to rest.
    edits.append(tab.tab.select)
    edited = gr.on(edits, check, inputs, tab.outputs, trigger_mode="always_last", **QUIET)
    filled = preset_panel.connect(tab.presets, tab.form, edited)
    filled.append(start_panel.connect(tab.form, tab.tab, tab.card))
    for event in filled:
        check_after(tab, dataset_id, event)
    started = [*tab.outputs, tab.ticket, *opening.outputs]
    start = guarded(tab.card, on_start)
    tab.start.click(start, [tab.ticket, *inputs], started, trigger_mode="once", **QUIET)
    estimate_panel.connect(tab.estimate, inputs, dataset_id.change, [edited, *filled])


def _connect_method(settings: Form) -> None:
    """Show only the settings that the chosen method reads."""
    names = form.method_settings()

    def on_method(method: str) -> list[Any]:
        return [
            gr.update(visible=True if form.is_read_by(name, method) else form.HIDDEN)
            for name in names
        ]

    method = settings.components["method"]
    method.change(on_method, method, [settings.components[name] for name in names], **QUIET)


def check_after(tab: TrainTab, dataset_id: gr.Textbox, event: Any) -> None:  # noqa: ANN401 - gradio's dependency
    """Check whether training can start after an event that changes data or settings."""
    event.then(_on_check(tab), [dataset_id, *tab.form.inputs], tab.outputs, **QUIET)


def _on_check(tab: TrainTab) -> Callable[..., Any]:
    def on_check(dataset_id: str, *values: object) -> Updates:
        return readiness_updates(tab, dataset_id, values)

    return guarded(tab.card, on_check)


def _build_basic(values: Mapping[str, object]) -> dict[str, Any]:
    """Return the inputs of the settings that are always visible."""
    with gr.Group(elem_classes="settings-grid"):
        return {
            name: form.build_component(name, values[name], method=values["method"])
            for name in form.basic_settings()
        }


def _build_folds(values: Mapping[str, object]) -> dict[str, Any]:
    """Return the inputs of the other settings, in a section per group."""
    components: dict[str, Any] = {}
    for group, names in form.folded_settings().items():
        fold = gr.Accordion(group, open=False, elem_id=f"group-{group.lower()}")
        with fold, gr.Group(elem_classes="settings-grid"):
            for name in names:
                components[name] = form.build_component(name, values[name], method=values["method"])
    return components


def readiness_updates(tab: TrainTab, dataset_id: str, values: Sequence[object]) -> Updates:
    """Return whether training can start and, if not, why."""
    reason, active = reason_against(dataset_id, values), store.active_run()
    queued_after = ""
    if active is not None:
        queued_after = f"Run “{active.title}” is {active.state.status}; this one starts after it."
    return {
        tab.data: _data_line(dataset_id, values),
        tab.template: template_card(values),
        tab.start: gr.Button(QUEUE if active else START, interactive=not reason),
        tab.reason: cards.reason(reason or queued_after),
    }


def reason_against(dataset_id: str, values: Sequence[object]) -> str:
    """Return why training cannot start, empty if it can."""
    if not dataset_id:
        return "Choose preference pairs on the Data tab first."
    try:
        uploads.open_upload(dataset_id)
        config = chat_templates.recorded(with_start(form.config_from(values)))
    except (InputError, ModelError) as exc:
        return exc.message
    try:
        dataset = uploads.open_for(dataset_id, config)
        check_data(config, dataset.report, dataset.pairs)
    except InputError as exc:
        return str(exc)  # with the way out: the settings are on this tab
    return ""


def template_card(values: Sequence[object]) -> str:
    """Return which chat template the model gets; empty for its own one."""
    try:
        config = form.config_from(values)
    except ConfigError:
        return ""
    model = present.model_title(config.model)
    used = tokenizer_files.known_template(config.model, config.revision, config.chat_template)
    if used is None:
        is_known = find_model(config.model) is not None  # an instruct model
        return "" if is_known else cards.reason(UNKNOWN_TEMPLATE.format(model))
    if used.is_base:
        return cards.text_card("Base model", [*used.sentences(model), OTHER_TEMPLATE])
    return "".join(map(cards.reason, used.sentences(model)))


def _data_line(dataset_id: str, values: Sequence[object]) -> str:
    if not dataset_id:
        return ""
    try:
        report = uploads.open_upload(dataset_id).report
        config = form.config_from(values)
        report = uploads.open_for(dataset_id, config).report
        remarks = _remarks(dataset_id, config, report)
    except ConfigError:
        remarks = []  # the error is shown beside the button
    except OrpoQloraError:
        return ""
    sentences = [*report.sentences()[:1], *remarks]
    return cards.text_card(f"Training data: {report.source}", sentences)


def _remarks(dataset_id: str, config: TrainConfig, report: DataSummary) -> list[str]:
    """Return what the length policy and the settings mean for these pairs."""
    passes = too_many_passes(report.pairs, config)
    repeated = passes.sentence() if passes else ""
    length = token_panel.length_sentence(dataset_id, config)
    balance = balance_sentence(config, report)
    return [*filter(None, [length, repeated, methods.rate_sentence(config), balance])]


def new_ticket() -> str:
    """Return the ticket for the next start."""
    return secrets.token_hex(8)


def start_run(dataset_id: str, values: Sequence[object], ticket: str = "") -> RunPaths:
    """Start or queue a run from the page's data and settings; the same ticket twice is one run.

    Raises:
        ConfigError: lists every wrong setting.
        DataError: the upload is no longer stored.
    """
    config = form.config_from(values)
    return launch.start_run(config, uploads.open_for(dataset_id, config), ticket)
