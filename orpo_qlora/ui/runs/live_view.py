"""The part of a run's page that changes with every step: insight, charts, sample answers."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from orpo_qlora.charts import lines as line_charts
from orpo_qlora.charts import plots
from orpo_qlora.charts import view as chart_view
from orpo_qlora.charts.plots import Plot
from orpo_qlora.charts.view import ChartView, Choices
from orpo_qlora.errors import NonFiniteLoss
from orpo_qlora.runs import present, store
from orpo_qlora.runs.curves import insight
from orpo_qlora.runs.curves.insight import Insight, Level
from orpo_qlora.ui.parts import cards, theme
from orpo_qlora.ui.parts.events import QUIET
from orpo_qlora.ui.parts.guard import Updates
from orpo_qlora.ui.runs import samples_view, value_table
from orpo_qlora.ui.runs.folds import build_fold
from orpo_qlora.ui.runs.snapshot import Snapshot

INSIGHT, VALUES = "run-insight", "run-values"
LEVEL_LABELS: dict[Level, str] = {
    "bad": "act",
    "watch": "watch",
    "good": "good",
    "early": "wait",
}
KEPT_CHOICES = 2
"""Number of choices kept for another run: smoothing and axes."""


@dataclass(frozen=True)
class LiveView:
    """The components."""

    insight: gr.HTML
    smoothing: gr.Slider
    is_log: gr.Checkbox
    steps: gr.Textbox
    remark: gr.HTML
    plots: tuple[gr.HTML, ...]
    """In the order of `plots.PLOTS`."""
    table: gr.HTML
    answers_step: gr.Dropdown
    samples: gr.HTML
    folds: Mapping[str, gr.Accordion]
    """The collapsed sections by name."""

    @property
    def choices(self) -> list[Any]:
        """The controls, in the order of `Choices.of`."""
        return [self.smoothing, self.is_log, self.steps, self.answers_step]

    @property
    def outputs(self) -> list[Any]:
        """Every component that changes while a run is shown."""
        drawn = [self.insight, self.remark, *self.plots, self.table, self.samples]
        return [*drawn, self.steps, self.answers_step]


@dataclass(frozen=True)
class MainCharts:
    """The controls of all charts, and the charts that are always visible."""

    smoothing: gr.Slider
    is_log: gr.Checkbox
    steps: gr.Textbox
    remark: gr.HTML
    plots: tuple[gr.HTML, ...]


def build_insight() -> gr.HTML:
    """Return the place of the sentence that interprets the curves."""
    return _held(INSIGHT)


def build_main_charts() -> MainCharts:
    """Return the controls and the main charts, empty."""
    with gr.Row(elem_id="chart-controls"):
        smoothing = gr.Slider(
            0,
            chart_view.MOST_SMOOTHING,
            value=chart_view.SMOOTHING,
            step=0.01,
            label="Smoothing",
            info="EMA weight of the bold curve. Raw values are faint.",
            elem_id="chart-smoothing",
        )
        steps = gr.Textbox(
            label="Steps shown",
            placeholder="all",
            info="Drag over a chart or type 100-200. Double-click: all.",
            max_lines=1,
            max_length=chart_view.MOST_CHARACTERS,
            elem_id="chart-steps",
        )
        is_log = gr.Checkbox(
            label="Logarithmic axes",
            info="Loss, learning rate and gradient norm.",
            elem_id="chart-log",
        )
    remark = gr.HTML(elem_id="chart-remark")
    return MainCharts(smoothing, is_log, steps, remark, _build_plots(is_main=True))


def _build_plots(*, is_main: bool) -> tuple[gr.HTML, ...]:
    with gr.Row(elem_classes="plots"):
        return tuple(
            _held(f"plot-{plot.name}", min_width=420)
            for plot in plots.PLOTS
            if (plot.name in plots.MAIN) == is_main
        )


def build_live_view(insight: gr.HTML, main: MainCharts) -> LiveView:
    """Return the view with its collapsed sections: other charts, latest values, sample answers."""
    with build_fold("charts", "More charts") as charts_fold:
        others = _build_plots(is_main=False)
    with build_fold("values", "Latest values") as values_fold:
        table = _held(VALUES)
    with build_fold("samples", "Sample answers") as samples_fold:
        answers_step = gr.Dropdown(
            samples_view.step_choices([]),
            value=samples_view.LATEST,
            label="Compare base model with",
            interactive=True,
            filterable=False,
            elem_id="run-samples-step",
        )
        samples = gr.HTML(elem_id="run-samples")
    return LiveView(
        insight=insight,
        smoothing=main.smoothing,
        is_log=main.is_log,
        steps=main.steps,
        remark=main.remark,
        plots=(*main.plots, *others),
        table=table,
        answers_step=answers_step,
        samples=samples,
        folds={"charts": charts_fold, "values": values_fold, "samples": samples_fold},
    )


def _held(name: str, min_width: int | None = None) -> gr.HTML:
    return gr.HTML(elem_id=name, js_on_load=theme.hold(name), min_width=min_width)


def reset_updates(live: LiveView) -> Updates:
    """Reset the choices that belong to one run."""
    return {live.steps: "", live.answers_step: samples_view.LATEST}


def restored_updates(live: LiveView, parameters: Mapping[str, str], run_id: str) -> Updates:
    """Return the controls from the page's address."""
    smoothing, is_log, steps, answers = chart_view.values_in(parameters)
    moments = samples_view.step_choices(store.samples_of(store.paths_of(run_id)))
    known = answers if answers in dict(moments).values() else samples_view.LATEST
    return {
        **{live.smoothing: smoothing, live.is_log: is_log, live.steps: steps},
        live.answers_step: gr.Dropdown(moments, value=known),
    }


def connect_memory(live: LiveView) -> None:
    """Keep the controls in the page's address."""
    at_first = (*chart_view.AT_FIRST[:-1], samples_view.LATEST)
    named = zip(chart_view.IN_ADDRESS, live.choices, at_first, strict=True)
    for name, component, value in named:
        component.change(None, component, None, js=theme.remember_soon(name, value), **QUIET)


def live_updates(live: LiveView, now: Snapshot, changed: set[str], choices: Choices) -> Updates:
    """Return the changed parts."""
    updates: Updates = {}
    if "plots" in changed:
        updates |= _plot_updates(live, now, choices.chart)
    if "samples" in changed:
        updates[live.answers_step] = gr.Dropdown(samples_view.step_choices(now.samples))
        updates[live.samples] = samples_view.samples_table(
            now.samples, now.awaited, choices.answers_step
        )
    return updates


def _plot_updates(live: LiveView, now: Snapshot, view: ChartView) -> Updates:
    drawn = draw(now, view)
    return {
        live.insight: drawn[INSIGHT],
        live.remark: _remark(view),
        live.table: drawn[VALUES],
        **{
            component: drawn[f"plot-{plot.name}"]
            for component, plot in zip(live.plots, plots.PLOTS, strict=True)
        },
    }


def draw(now: Snapshot, view: ChartView) -> dict[str, str]:
    """Return the HTML that changes with a step, by element id."""
    return {
        INSIGHT: insight_card(_insights(now)),
        VALUES: value_table.value_table(now.metrics, now.run.config, view),
        **{f"plot-{plot.name}": _chart(plot, now, view) for plot in plots.PLOTS},
    }


def _chart(plot: Plot, now: Snapshot, view: ChartView) -> str:
    state = now.run.state
    curves = plots.curves_of(plot, now.metrics, now.run.config, view)
    if state.error and state.error.slug == NonFiniteLoss.slug and plot.name in plots.ENDED_BY:
        curves = plots.marked(curves, state.step + 1)
    return line_charts.draw_chart(plot, curves, state.total_steps, view)


def _insights(now: Snapshot) -> list[Insight]:
    if now.metrics.share_read < 1:
        # A part of the curve may suggest the opposite of the whole.
        read = present.percent(now.metrics.share_read)
        return [Insight("reading", "early", f"Reading metrics: {read}.")]
    return insight.judge(now.metrics, now.run.config)


def _remark(view: ChartView) -> str:
    if view.error:
        return cards.reason(view.error)
    if view.steps is not None:
        first, last = view.steps
        end = f"to {last:,}" if last < chart_view.FAR else "and later"
        return cards.reason(f"Steps {first:,} {end}. Double-click a chart to show all.")
    return ""


def insight_card(insights: Sequence[Insight]) -> str:
    """Return the interpretation of the curves: the main insight, then other warnings."""
    lines = "".join(_insight_line(one) for one in insights)
    # Not a live region: its numbers change with every step.
    return (
        f'<div class="card insight insight-{insights[0].level}" role="group" '
        f'aria-label="Insight">{lines}</div>'
    )


def _insight_line(one: Insight) -> str:
    text = " ".join(filter(None, (one.sentence, one.advice)))
    label = LEVEL_LABELS[one.level]
    return (
        f'<p class="insight-line"><span class="pill pill-{one.level}">{label}</span>'
        f"<span>{html.escape(text)} <small>rule <code>{one.rule}</code></small></span></p>"
    )
