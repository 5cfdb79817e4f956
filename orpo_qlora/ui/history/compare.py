"""Comparison of several runs, updated while some of them still train."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from orpo_qlora.data.wording import plural
from orpo_qlora.errors import InputError, UnknownRun
from orpo_qlora.evaluation import comparison, report_card
from orpo_qlora.runs import present, store
from orpo_qlora.runs.store import Run
from orpo_qlora.ui.history import compare_view, history_table, results_view, sweep_chart
from orpo_qlora.ui.history.compare_view import MOST_RUNS
from orpo_qlora.ui.history.shown import Shown, ids_of
from orpo_qlora.ui.parts import cards, theme
from orpo_qlora.ui.parts.events import QUIET
from orpo_qlora.ui.parts.guard import Updates, guarded

HELD_OUT, TRAINING = "Held-out pairs", "Training pairs"
POLL_SECONDS = 1.0
MOST_SECONDS = 1.0
"""Longest time to read long files per update; the rest is read by the next one."""


@dataclass(frozen=True)
class Comparison:
    """The components of a comparison."""

    view: gr.Column
    ids: gr.Textbox
    """The runs compared, separated by commas; empty while nothing is."""
    seen: gr.Textbox
    back: gr.Button
    side: gr.Radio
    head: gr.HTML
    sweep: gr.HTML
    held_out: gr.HTML
    curves: gr.HTML
    differences: gr.HTML
    timer: gr.Timer
    """Active while long files are being read."""

    @property
    def outputs(self) -> list[Any]:
        """Every component that changes with a comparison."""
        parts = [self.head, self.sweep, self.held_out, self.curves, self.differences]
        return [self.view, self.seen, *parts, self.timer]


def build_comparison() -> Comparison:
    """Return the components, hidden."""
    ids = gr.Textbox(visible="hidden", elem_id="compare-ids", label="Compared runs")
    seen = gr.Textbox(visible="hidden", elem_id="compare-seen", label="Comparison fingerprint")
    with gr.Column(visible=False, elem_id="compare") as view:
        with gr.Row(elem_classes="actions"):
            back = gr.Button("All runs", size="md", scale=0, min_width=130, elem_id="compare-back")
        head = gr.HTML(elem_id="compare-head", js_on_load=history_table.PRESSED)
        sweep = gr.HTML(elem_id="compare-sweep")
        held_out = gr.HTML(elem_id="compare-held-out")
        side = gr.Radio(
            [HELD_OUT, TRAINING],
            value=HELD_OUT,
            label="Curves measured on",
            elem_id="compare-side",
            interactive=True,
        )
        curves = gr.HTML(elem_id="compare-curves")
        differences = gr.HTML(elem_id="compare-differences")
    timer = gr.Timer(POLL_SECONDS, active=False)
    shown = (side, head, sweep, held_out, curves, differences)
    return Comparison(*(view, ids, seen, back, *shown, timer))


def check(ids: Sequence[str]) -> str:
    """Return the ids of runs to compare as one text.

    Raises:
        InputError: they are too few or too many.
    """
    if not 2 <= len(ids) <= MOST_RUNS:
        raise InputError(
            f"A comparison has 2 to {MOST_RUNS} runs; {plural(len(ids), 'run')} "
            f"{'is' if len(ids) == 1 else 'are'} selected.",
            hint="Select the runs in the list.",
        )
    return ",".join(ids)


def side_of(text: str) -> str:
    """Return which pairs the curves are measured on, from the page's address."""
    return TRAINING if text == TRAINING else HELD_OUT


def hidden_updates(part: Comparison) -> Updates:
    """Hide the comparison."""
    hidden = gr.Column(visible=False)
    return {part.view: hidden, part.seen: "", part.timer: gr.Timer(active=False)}


def compare_updates(
    part: Comparison, ids: Sequence[str], side: str, seen: str = ""
) -> Updates | None:
    """Return what changed since the page rendered the comparison; None if nothing did.

    Args:
        part: the components.
        ids: the runs; deleted ones are skipped.
        side: which pairs the curves were measured on.
        seen: fingerprint of what the page shows; empty renders everything.
    """
    runs = _existing(ids)
    several = compare_view.line_up(runs, MOST_SECONDS)
    share = min((one.metrics.share_read for one in several), default=1.0)
    mark = _mark(runs, side, share)
    if mark == seen:
        return None
    if not runs:
        gone = cards.empty_card("Nothing to compare", "These runs were deleted.")
        drawn = (part.sweep, part.held_out, part.curves, part.differences)
        return {
            part.view: gr.Column(visible=True),
            part.seen: mark,
            part.head: gone,
            **dict.fromkeys(drawn, ""),
            part.timer: gr.Timer(active=False),
        }
    found = comparison.compare(runs, {one.run.id: one.metrics for one in several})
    reading = f"Reading metrics: {present.percent(share)}." if share < 1 else ""
    return {
        part.view: gr.Column(visible=True),
        part.seen: mark,
        part.head: compare_view.draw_legend(several),
        part.sweep: sweep_chart.draw_sweep(found, {one.run.id: one.colour for one in several}),
        part.held_out: results_view.draw_results(found, {one.run.id: one.place for one in several}),
        part.curves: (cards.busy(reading) if reading else "")
        + compare_view.draw_curves(several, held_out=side != TRAINING),
        part.differences: compare_view.draw_differences(several),
        part.timer: gr.Timer(active=share < 1),
    }


def _existing(ids: Sequence[str]) -> list[Run]:
    runs = []
    for run_id in ids[:MOST_RUNS]:
        try:
            runs.append(store.read_run(store.paths_of(run_id)))
        except UnknownRun:
            continue
    return runs


def _mark(runs: Sequence[Run], side: str, share: float) -> str:
    lines = [side, str(share)]
    for run in runs:
        metrics = run.paths.metrics
        size = metrics.stat().st_size if metrics.is_file() else 0
        card = report_card.file_of(run.paths)
        evaluated = card.stat().st_mtime_ns if card.is_file() else 0
        lines.append(f"{run.id} {run.title} {run.state.status} {size} {evaluated}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def connect_comparison(part: Comparison, shown: Shown) -> None:
    """Connect the comparison; `part.ids` decides which runs it shows."""

    def on_side(ids: str, side: str) -> Updates | None:
        return compare_updates(part, ids_of(ids), side)

    def on_tick(ids: str, side: str, seen: str) -> Updates | None:
        return compare_updates(part, ids_of(ids), side, seen) if ids else None

    part.back.click(None, None, [part.ids, shown.card], js="() => ['', '']")
    part.head.select(None, None, shown.run, js=history_table.TAKE)
    drawn = [shown.card, *part.outputs]
    part.side.input(guarded(shown.card, on_side), [part.ids, part.side], drawn, **QUIET)
    inputs = [part.ids, part.side, part.seen]
    part.timer.tick(guarded(shown.card, on_tick, keeps_card=True), inputs, drawn, **QUIET)
    part.ids.change(None, part.ids, None, js=theme.remember("compare"))
    part.side.change(None, part.side, None, js=theme.remember_soon("side", HELD_OUT))
