"""λ sweep: the same training with a few values of λ, queued at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from orpo_qlora.data.pairs import split_pairs
from orpo_qlora.errors import InputError
from orpo_qlora.runs import store
from orpo_qlora.runs.process import sweep
from orpo_qlora.ui.data import uploads
from orpo_qlora.ui.history.shown import Shown
from orpo_qlora.ui.parts import form
from orpo_qlora.ui.parts.events import QUIET
from orpo_qlora.ui.parts.guard import Updates, guarded

ABOUT = (
    "Queues the same training once for each value and compares held-out accuracy, log-prob gap and "
    "chosen log-prob as the runs finish."
)


@dataclass(frozen=True)
class SweepPanel:
    """The components."""

    fold: gr.Accordion
    values: gr.Textbox
    offered: gr.Textbox
    """The values last suggested; other values were typed by the user."""
    start: gr.Button


def build_sweep_panel(elem_id: str, offered: str = "") -> SweepPanel:
    """Return the components, collapsed; their ids begin with `elem_id`."""
    with gr.Accordion(
        "λ sweep", open=False, elem_id=f"{elem_id}-fold", elem_classes="run-fold"
    ) as fold:
        gr.HTML(f'<p class="quiet">{ABOUT}</p>')
        with gr.Row(elem_classes="actions"):
            values = gr.Textbox(
                offered,
                label="Values of λ",
                elem_id=f"{elem_id}-values",
                interactive=True,
                scale=0,
                min_width=240,
            )
            start = gr.Button(
                "Queue these runs", scale=0, min_width=190, elem_id=f"{elem_id}-start"
            )
        known = gr.Textbox(
            offered, visible="hidden", elem_id=f"{elem_id}-offered", label="Suggested"
        )
    return SweepPanel(fold, values, known, start)


def offered_text(lambda_: object) -> str:
    """Return suggested values around one, as text."""
    known = float(lambda_) if isinstance(lambda_, int | float) else 0.1
    return ", ".join(f"{value:g}" for value in sweep.offered_values(known))


def connect_offer(panel: SweepPanel, lambda_: gr.Number) -> None:
    """Suggest values around the setting of λ as it changes, until the user types others."""
    known = [panel.values, panel.offered]

    def on_change(value: object, typed: str, offered: str) -> Any:  # noqa: ANN401 - may be a skip
        return dict.fromkeys(known, offered_text(value)) if typed == offered else gr.skip()

    lambda_.change(on_change, [lambda_, *known], known, **QUIET)


def start_from_form(text: str, ticket: str, dataset_id: str, *values: object) -> list[str]:
    """Queue a sweep over the settings and data of the page; return the ids of its runs.

    The same ticket twice is one sweep.

    Raises:
        InputError: data, settings or values of λ are missing or wrong.
    """
    if not dataset_id:
        raise InputError("There are no pairs to train on.", hint="Choose them on the Data tab.")
    lambdas = sweep.parse_values(text)
    config = form.config_from(values)
    dataset = uploads.open_upload(dataset_id)
    split = split_pairs(dataset.pairs, config.held_out, config.seed)
    return sweep.start_sweep(config, lambdas, split, dataset.report, ticket)


def start_from_run(text: str, run_id: str) -> list[str]:
    """Queue a sweep around a run; return the ids of its runs, that one first.

    Raises:
        InputError: the values of λ are wrong, or the run has the only one.
    """
    run = store.read_run(store.paths_of(run_id))
    return sweep.sweep_from(run, sweep.parse_values(text))


def connect_sweep(
    panel: SweepPanel,
    start: Callable[..., list[str]],
    inputs: Sequence[Any],
    shown: Shown,
    tabs: gr.Tabs,
    card: gr.HTML,
) -> Any:  # noqa: ANN401 - gradio's dependency
    """Connect the button, which opens a comparison of the runs; return its event.

    Args:
        panel: the components.
        start: queues runs from the values of `inputs` and returns their ids.
        inputs: what `start` takes after the values of λ.
        shown: what the Runs tab shows.
        tabs: the page's tabs.
        card: where errors appear.
    """

    def on_start(*values: object) -> Updates:
        ids = start(*values)
        opened = {shown.compared: ",".join(ids), shown.run: "", shown.card: ""}
        return {**opened, tabs: gr.Tabs(selected="runs")}

    outputs = list(dict.fromkeys([card, shown.card, shown.compared, shown.run, tabs]))
    handler = guarded(card, on_start)
    values = [panel.values, *inputs]
    return panel.start.click(handler, values, outputs, trigger_mode="once", **QUIET)
