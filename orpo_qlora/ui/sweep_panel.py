"""“Try λ”: the same training with a few values of λ, queued at once. Floor 5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import gradio as gr

from orpo_qlora.data.pairs import split_pairs
from orpo_qlora.runs import store, sweep
from orpo_qlora.ui import datasets, form

ABOUT = (
    "Queues the same training once for each value, everything else alike, and shows λ against "
    "held-out accuracy, log-prob gap and chosen log-prob as they finish."
)


@dataclass(frozen=True)
class SweepPanel:
    """The components."""

    values: gr.Textbox
    start: gr.Button


def build_sweep_panel(elem_id: str, offered: str = "") -> SweepPanel:
    """Return the components, folded away; their ids begin with `elem_id`."""
    with gr.Accordion("Try λ", open=False, elem_id=f"{elem_id}-fold"):
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
    return SweepPanel(values, start)


def offered_text(lambda_: object) -> str:
    """Return values to try around one, as a person would type them."""
    known = float(lambda_) if isinstance(lambda_, int | float) else 0.1
    return ", ".join(f"{value:g}" for value in sweep.offered_values(known))


def start_from_form(dataset_id: str, text: str, values: Sequence[object], ticket: str) -> list[str]:
    """Queue a sweep over the settings and data of the page; return the ids of its runs.

    The same order twice is one sweep.

    Raises:
        InputError: data, settings or values of λ are missing or wrong.
    """
    lambdas = sweep.parse_values(text)
    config = form.config_from(values)
    dataset = datasets.open_dataset(dataset_id)
    split = split_pairs(dataset.pairs, config.held_out, config.seed)
    return sweep.start_sweep(config, lambdas, (split, dataset.report), ticket)


def start_from_run(run_id: str, text: str) -> list[str]:
    """Queue a sweep around a run; return the ids of its runs, that one first.

    Raises:
        InputError: the values of λ are wrong, or the run has the only one.
    """
    run = store.read_run(store.paths_of(run_id))
    return sweep.sweep_from(run, sweep.parse_values(text))
