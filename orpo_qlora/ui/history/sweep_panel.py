"""Sweep: the same training with several values of one or two settings, queued at once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import gradio as gr

from orpo_qlora.config import TrainConfig, build_config, setting_fields
from orpo_qlora.data.pairs import split_pairs
from orpo_qlora.data.wording import plural
from orpo_qlora.errors import ConfigError, InputError
from orpo_qlora.jobs import estimation
from orpo_qlora.methods import method_of
from orpo_qlora.runs import store
from orpo_qlora.runs.process import sweep
from orpo_qlora.runs.process.sweep import Variation
from orpo_qlora.runs.store import Run
from orpo_qlora.ui.data import uploads
from orpo_qlora.ui.history.compare_view import MOST_RUNS
from orpo_qlora.ui.history.shown import Shown
from orpo_qlora.ui.parts import cards, form
from orpo_qlora.ui.parts.events import QUIET
from orpo_qlora.ui.parts.guard import Updates, guarded

ABOUT = (
    "Queues the same training once for each value, on the same pairs, and compares held-out "
    "results and cost as the runs finish. A second setting is crossed with the first."
)
NONE = ""
UNKNOWN = "No estimate yet, so the time is unknown."
PANEL_VALUES = 4


class SweepSource(Protocol):
    """Where a sweep takes its pairs and its other settings from.

    `inputs` are components; the methods take their values.
    """

    inputs: list[Any]

    def config(self, *values: Any) -> TrainConfig:  # noqa: ANN401 - of any component
        """Return the settings around which values are offered; raises InputError."""

    def added(self, variations: Sequence[Variation], *values: Any) -> list[TrainConfig]:  # noqa: ANN401
        """Return the settings of the runs to be queued; raises InputError."""

    def seconds(self, added: Sequence[TrainConfig], *values: Any) -> float | None:  # noqa: ANN401
        """Return the predicted time of these runs together, None if unknown."""

    def start(self, variations: Sequence[Variation], *values: Any) -> list[Run]:  # noqa: ANN401
        """Queue the runs and return those to compare; raises InputError or DiskFull."""


@dataclass(frozen=True)
class SweepPanel:
    """The components."""

    fold: gr.Accordion
    setting: gr.Dropdown
    values: gr.Textbox
    second: gr.Dropdown
    second_values: gr.Textbox
    offered: gr.Textbox
    """The values last suggested for the first setting; other values were typed by the user."""
    summary: gr.HTML
    start: gr.Button
    group: gr.Button
    """Opens the comparison of the sweep that a run belongs to."""

    @property
    def inputs(self) -> list[Any]:
        """What a sweep varies: two settings, each with its values."""
        return [self.setting, self.values, self.second, self.second_values]


def build_sweep_panel(elem_id: str, offered: str = "") -> SweepPanel:
    """Return the components, collapsed; their ids begin with `elem_id`."""
    fields = setting_fields()
    settings = [(f"{fields[name].title} ({name})", name) for name in sweep.sweepable_settings()]
    with gr.Accordion(
        "Sweep", open=False, elem_id=f"{elem_id}-fold", elem_classes="run-fold"
    ) as fold:
        gr.HTML(f'<p class="quiet">{ABOUT}</p>')
        with gr.Group(elem_classes=["settings-grid", "sweep-grid"]):
            setting = _build_setting("Setting", settings, "lambda", f"{elem_id}-setting")
            values = _build_values("Values", offered, f"{elem_id}-values")
            several = [("None", NONE), *settings]
            second = _build_setting("Second setting", several, NONE, f"{elem_id}-second")
            second_values = _build_values("Its values", "", f"{elem_id}-second-values")
        summary = gr.HTML(elem_id=f"{elem_id}-summary")
        with gr.Row(elem_classes="actions"):
            start = gr.Button(
                "Queue these runs", scale=0, min_width=190, elem_id=f"{elem_id}-start"
            )
            group = gr.Button(
                "Compare this sweep",
                scale=0,
                min_width=190,
                visible=False,
                elem_id=f"{elem_id}-group",
            )
        known = gr.Textbox(
            offered, visible="hidden", elem_id=f"{elem_id}-offered", label="Suggested"
        )
    return SweepPanel(
        fold=fold,
        setting=setting,
        values=values,
        second=second,
        second_values=second_values,
        offered=known,
        summary=summary,
        start=start,
        group=group,
    )


def _build_setting(
    label: str, choices: list[tuple[str, str]], value: str, elem_id: str
) -> gr.Dropdown:
    return gr.Dropdown(
        choices,
        value=value,
        label=label,
        elem_id=elem_id,
        filterable=True,
        interactive=True,
    )


def _build_values(label: str, value: str, elem_id: str) -> gr.Textbox:
    return gr.Textbox(value, label=label, elem_id=elem_id, interactive=True, max_lines=1)


def offered_text(setting: str, value: object = None) -> str:
    """Return suggested values of a setting around one, or around its default, as text."""
    config = TrainConfig()
    with suppress(ConfigError):
        config = config if value is None else build_config({setting: value})
    return sweep.values_text(sweep.offered_values(config, setting))


def usual_offer(config: TrainConfig) -> tuple[str, str]:
    """Return the setting that is swept first with these settings, and values around its own."""
    usual = sweep.usual_setting(config)
    return usual, sweep.values_text(sweep.offered_values(config, usual))


def connect_offer(panel: SweepPanel, lambda_: gr.Number, method: Any) -> None:  # noqa: ANN401 - a choice
    """Suggest the weight of the form's method and values around it, until the user chooses."""
    known = [panel.values, panel.offered]

    def on_method(name: str, typed: str, offered: str) -> Any:  # noqa: ANN401 - may be a skip
        if typed != offered:
            return gr.skip()
        setting, values = usual_offer(build_config({"method": name}))
        return {panel.setting: setting, panel.values: values, panel.offered: values}

    method.change(on_method, [method, *known], [panel.setting, *known], **QUIET)

    def on_change(value: object, setting: str, typed: str, offered: str) -> Any:  # noqa: ANN401 - may be a skip
        if setting != "lambda" or typed != offered:
            return gr.skip()
        return dict.fromkeys(known, offered_text(setting, value))

    lambda_.change(on_change, [lambda_, panel.setting, *known], known, **QUIET)


def run_updates(panel: SweepPanel, run: Run) -> Updates:
    """Return the panel of a run that is selected: its method's weight, no second setting."""
    usual, offered = usual_offer(run.config)
    first = {panel.setting: usual, panel.values: offered}
    group = gr.Button(visible=bool(sweep.tag_of(run)))
    return {**first, panel.second: NONE, panel.second_values: "", panel.group: group}


def run_outputs(panel: SweepPanel) -> list[Any]:
    """Return the components of `run_updates`."""
    return [*panel.inputs, panel.group]


class FormSource:
    """The data and settings of the page."""

    def __init__(self, ticket: gr.Textbox, dataset_id: gr.Textbox, settings: list[Any]) -> None:
        self.inputs = [ticket, dataset_id, *settings]

    def config(self, ticket: str, dataset_id: str, *values: object) -> TrainConfig:
        """Return the settings of the form."""
        return form.config_from(values)

    def added(
        self, variations: Sequence[Variation], ticket: str, dataset_id: str, *values: object
    ) -> list[TrainConfig]:
        """Return the settings of every run."""
        return sweep.runs_from(form.config_from(values), variations)

    def seconds(
        self, added: Sequence[TrainConfig], ticket: str, dataset_id: str, *values: object
    ) -> float | None:
        """Return what the estimate predicts, of each run's own settings or else of the form's."""
        if not dataset_id:
            return None
        usual = _estimated_seconds(dataset_id, form.config_from(values))
        each = [_estimated_seconds(dataset_id, config) or usual for config in added]
        known = [seconds for seconds in each if seconds is not None]
        return sum(known) if len(known) == len(added) else None

    def start(
        self, variations: Sequence[Variation], ticket: str, dataset_id: str, *values: object
    ) -> list[Run]:
        """Queue a sweep; the same ticket twice is one.

        Raises:
            InputError: data, settings or values are missing or wrong.
        """
        if not dataset_id:
            raise InputError("There are no pairs to train on.", hint="Choose them on the Data tab.")
        config = form.config_from(values)
        dataset = uploads.open_for(dataset_id, _reader(config, variations))
        split = split_pairs(dataset.pairs, config.held_out, config.seed)
        return sweep.start_sweep(config, variations, split, dataset.report, ticket)


class RunSource:
    """The pairs and settings of a run, which is part of the sweep."""

    def __init__(self, picker: gr.Textbox) -> None:
        self.inputs = [picker]

    def config(self, run_id: str) -> TrainConfig:
        """Return the settings of the run."""
        return _run(run_id).config

    def added(self, variations: Sequence[Variation], run_id: str) -> list[TrainConfig]:
        """Return the settings of every other run."""
        return sweep.runs_around(_run(run_id), variations)

    def seconds(self, added: Sequence[TrainConfig], run_id: str) -> float | None:
        """Return what as many runs take as this one did, once it is finished."""
        state = _run(run_id).state
        if state.status != "finished" or not state.ended_at > state.started_at > 0:
            return None
        return (state.ended_at - state.started_at) * len(added)

    def start(self, variations: Sequence[Variation], run_id: str) -> list[Run]:
        """Queue a sweep around the run, which comes first."""
        return sweep.sweep_from(_run(run_id), variations)


def _reader(config: TrainConfig, variations: Sequence[Variation]) -> TrainConfig:
    """Return the settings that decide how labelled rows are read: all runs have the same pairs."""
    configs = sweep.runs_from(config, variations)
    return next((one for one in configs if not method_of(one).takes_single), configs[0])


def _run(run_id: str) -> Run:
    return store.read_run(store.paths_of(run_id))


def _estimated_seconds(dataset_id: str, config: TrainConfig) -> float | None:
    report = uploads.open_for(dataset_id, config).report
    request = estimation.request_for(uploads.files_for(dataset_id, config), report, config)
    if not estimation.is_requested(request):
        return None
    found = estimation.read_answer(request).estimate
    return found.seconds.total if found and found.is_measured else None


def variations_of(setting: str, values: str, second: str, second_values: str) -> list[Variation]:
    """Return what the panel varies.

    Raises:
        InputError: values are missing or wrong.
    """
    first = sweep.parse_values(setting, values)
    return [first, sweep.parse_values(second, second_values)] if second else [first]


def summary_of(source: SweepSource, *values: Any) -> str:  # noqa: ANN401 - of any component
    """Return how many runs would be queued and how long they take, or what is wrong, as HTML."""
    chosen, others = values[:PANEL_VALUES], values[PANEL_VALUES:]
    try:
        variations = variations_of(*chosen)
        added = source.added(variations, *others)
        seconds = source.seconds(added, *others)
    except InputError as error:
        return cards.reason(f"{error.message} {error.hint}".strip())
    counts = " × ".join(str(len(variation.values)) for variation in variations)
    crossed = f" ({counts} values)" if len(variations) > 1 else ""
    time = UNKNOWN if seconds is None else f"{estimation.about(seconds, is_first=True)} together."
    return cards.reason(f"{plural(len(added), 'run')}{crossed}. {time}")


def connect_group(panel: SweepPanel, picker: gr.Textbox, shown: Shown) -> None:
    """Connect the button of a run that opens the comparison of its sweep."""

    def on_group(run_id: str) -> Updates:
        return _comparison_of(sweep.group_of(sweep.tag_of(_run(run_id))), shown)

    outputs = [shown.card, shown.compared, shown.run]
    panel.group.click(guarded(shown.card, on_group), picker, outputs, **QUIET)


def _comparison_of(runs: Sequence[Run], shown: Shown) -> Updates:
    ids = ",".join(run.id for run in runs[:MOST_RUNS])
    return {shown.compared: ids, shown.run: "", shown.card: ""}


def connect_sweep(
    panel: SweepPanel, source: SweepSource, shown: Shown, tabs: gr.Tabs, card: gr.HTML
) -> Any:  # noqa: ANN401 - gradio's dependency
    """Connect the panel; its button opens a comparison of the runs. Return the button's event.

    Args:
        panel: the components.
        source: pairs and settings.
        shown: what the Runs tab shows.
        tabs: the page's tabs.
        card: where errors appear.
    """

    def on_start(*values: Any) -> Updates:  # noqa: ANN401 - of any component
        variations = variations_of(*values[:PANEL_VALUES])
        runs = source.start(variations, *values[PANEL_VALUES:])
        return {**_comparison_of(runs, shown), tabs: gr.Tabs(selected="runs")}

    def on_setting(setting: str, *values: Any) -> str:  # noqa: ANN401 - of any component
        if not setting:
            return ""
        with suppress(InputError):
            config = source.config(*values)
            return sweep.values_text(sweep.offered_values(config, setting))
        return offered_text(setting)

    def onfirst_setting(*values: Any) -> Updates:  # noqa: ANN401 - of any component
        return dict.fromkeys([panel.values, panel.offered], on_setting(*values))

    def on_change(*values: Any) -> str:  # noqa: ANN401 - of any component
        return summary_of(source, *values)

    chosen = [panel.setting, *source.inputs]
    outputs = [panel.values, panel.offered]
    panel.setting.input(onfirst_setting, chosen, outputs, **QUIET)
    chosen = [panel.second, *source.inputs]
    panel.second.input(on_setting, chosen, panel.second_values, **QUIET)
    every = [*panel.inputs, *source.inputs]
    changes = [panel.fold.expand, panel.values.change, panel.second_values.change]
    gr.on(changes, on_change, every, panel.summary, trigger_mode="always_last", **QUIET)
    outputs = list(dict.fromkeys([card, shown.card, shown.compared, shown.run, tabs]))
    handler = guarded(card, on_start)
    return panel.start.click(handler, every, outputs, trigger_mode="once", **QUIET)
