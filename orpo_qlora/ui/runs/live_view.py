"""The live part of the Runs tab: what the curves mean, the curves, and sample answers. Floor 5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from orpo_qlora.charts import lines as line_charts
from orpo_qlora.charts import plots
from orpo_qlora.charts import view as chart_view
from orpo_qlora.charts.plots import Plot
from orpo_qlora.charts.view import ChartView, Choices
from orpo_qlora.errors import NonFiniteLoss
from orpo_qlora.runs import insight, present, store
from orpo_qlora.runs.insight import Insight
from orpo_qlora.ui.parts import cards, theme
from orpo_qlora.ui.parts.events import QUIET
from orpo_qlora.ui.parts.guard import Updates
from orpo_qlora.ui.runs import samples_view, value_table
from orpo_qlora.ui.runs.insight_view import insight_card
from orpo_qlora.ui.runs.snapshot import Snapshot

VERDICT, VALUES = "run-insight", "run-values"
KEPT_CHOICES = 2
"""Of a person's choices, smoothing and axes; the others mean something for one run only."""


@dataclass(frozen=True)
class LiveView:
    """The components, in the order of the page."""

    verdict: gr.HTML
    smoothing: gr.Slider
    is_log: gr.Checkbox
    steps: gr.Textbox
    remark: gr.HTML
    plots: tuple[gr.HTML, ...]
    table: gr.HTML
    answers_step: gr.Dropdown
    samples: gr.HTML

    @property
    def choices(self) -> list[Any]:
        """What a person chose, in the order `Choices.of` takes it."""
        return [self.smoothing, self.is_log, self.steps, self.answers_step]

    @property
    def outputs(self) -> list[Any]:
        """Every component that changes while a run is watched."""
        drawn = [self.verdict, self.remark, *self.plots, self.table, self.samples]
        return [*drawn, self.steps, self.answers_step]


def build_live_view() -> LiveView:
    """Return the components, empty."""
    verdict = _held(VERDICT)
    controls = _build_controls()
    with gr.Row(elem_classes="plots"):
        drawn = tuple(_held(f"plot-{plot.name}", min_width=420) for plot in plots.PLOTS)
    with gr.Accordion("Latest values as a table", open=False, elem_id="run-values-fold"):
        table = _held(VALUES)
    gr.HTML(
        cards.heading(
            "Sample answers",
            "The same prompts answered by the base model and again at every evaluation.",
        )
    )
    answers_step = gr.Dropdown(
        samples_view.step_choices([]),
        value=samples_view.LATEST,
        label="Answers beside the base model's",
        interactive=True,
        filterable=False,
        elem_id="run-samples-step",
    )
    samples = gr.HTML(elem_id="run-samples")
    return LiveView(verdict, *controls, drawn, table, answers_step, samples)


def _held(name: str, min_width: int | None = None) -> gr.HTML:
    return gr.HTML(elem_id=name, js_on_load=theme.hold(name), min_width=min_width)


def _build_controls() -> tuple[gr.Slider, gr.Checkbox, gr.Textbox, gr.HTML]:
    with gr.Row(elem_id="chart-controls"):
        smoothing = gr.Slider(
            0,
            chart_view.MOST_SMOOTHING,
            value=chart_view.SMOOTHING,
            step=0.01,
            label="Smoothing",
            info="How much of a bold curve comes from the steps before; faint is as measured.",
            elem_id="chart-smoothing",
        )
        steps = gr.Textbox(
            label="Steps shown",
            placeholder="all",
            info="Drag over a chart, or type 100-200. Double click: all.",
            max_lines=1,
            max_length=chart_view.MOST_CHARACTERS,
            elem_id="chart-steps",
        )
        is_log = gr.Checkbox(
            label="Logarithmic axes",
            info="For loss, learning rate and gradient norm.",
            elem_id="chart-log",
        )
    return smoothing, is_log, steps, gr.HTML(elem_id="chart-remark")


def anew_updates(live: LiveView) -> Updates:
    """Return what a run that was shown before leaves behind: nothing."""
    return {live.steps: "", live.answers_step: samples_view.LATEST}


def restored_updates(live: LiveView, parameters: Mapping[str, str], run_id: str) -> Updates:
    """Return what the page's address says about how a run is seen."""
    smoothing, is_log, steps, answers = chart_view.values_in(parameters)
    moments = samples_view.step_choices(store.samples_of(store.paths_of(run_id)))
    known = answers if answers in dict(moments).values() else samples_view.LATEST
    return {
        **{live.smoothing: smoothing, live.is_log: is_log, live.steps: steps},
        live.answers_step: gr.Dropdown(moments, value=known),
    }


def wire_memory(live: LiveView) -> None:
    """Keep how a run is seen in the page's address."""
    at_first = (*chart_view.AT_FIRST[:-1], samples_view.LATEST)
    named = zip(chart_view.IN_ADDRESS, live.choices, at_first, strict=True)
    for name, component, value in named:
        component.change(None, component, None, js=theme.remember_soon(name, value), **QUIET)


def live_updates(live: LiveView, now: Snapshot, changed: set[str], choices: Choices) -> Updates:
    """Return what changed of the live part."""
    updates: Updates = {}
    if "plots" in changed:
        updates |= _plot_updates(live, now, choices.chart)
    if "samples" in changed:
        updates[live.answers_step] = gr.Dropdown(samples_view.step_choices(now.samples))
        updates[live.samples] = samples_view.samples_table(
            now.samples, samples_view.awaited_sentence(now.run), choices.answers_step
        )
    return updates


def _plot_updates(live: LiveView, now: Snapshot, view: ChartView) -> Updates:
    drawn = draw(now, view)
    return {
        live.verdict: drawn[VERDICT],
        live.remark: _remark(view),
        live.table: drawn[VALUES],
        **{
            component: drawn[f"plot-{plot.name}"]
            for component, plot in zip(live.plots, plots.PLOTS, strict=True)
        },
    }


def draw(now: Snapshot, view: ChartView) -> dict[str, str]:
    """Return what a step changes of the live part as HTML, by its id in the page."""
    return {
        VERDICT: insight_card(_verdicts(now)),
        VALUES: value_table.value_table(now.metrics, now.run.config.lambda_, view),
        **{f"plot-{plot.name}": _chart(plot, now, view) for plot in plots.PLOTS},
    }


def _chart(plot: Plot, now: Snapshot, view: ChartView) -> str:
    state = now.run.state
    curves = plots.curves_of(plot, now.metrics, now.run.config.lambda_, view)
    if state.error and state.error.slug == NonFiniteLoss.slug and plot.name in plots.ENDED_BY:
        curves = plots.marked(curves, state.step + 1)
    return line_charts.draw_chart(plot, curves, state.total_steps, view)


def _verdicts(now: Snapshot) -> list[Insight]:
    if now.metrics.share_read < 1:
        # Part of a run may mean the contrary of the whole.
        read = present.percent(now.metrics.share_read)
        return [Insight("reading", "early", f"Reading what was measured so far: {read}.")]
    return insight.judge(now.metrics, now.run.config.lambda_)


def _remark(view: ChartView) -> str:
    if view.complaint:
        return cards.reason(view.complaint)
    if view.steps is not None:
        first, last = view.steps
        end = f"to {last:,}" if last < chart_view.FAR else "on"
        return cards.reason(f"Steps {first:,} {end} are shown; double click on a chart for all.")
    return ""
