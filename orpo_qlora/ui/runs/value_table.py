"""The latest value of every curve as a table, for screen readers and for copying."""

from __future__ import annotations

import html

from orpo_qlora.charts.plots import PLOTS, Plot, Quantity, quantities_of
from orpo_qlora.charts.view import ChartView
from orpo_qlora.config import TrainConfig
from orpo_qlora.runs.curves.metrics import Metrics
from orpo_qlora.runs.curves.series import Course

HEAD = ("Quantity", "Unit", "Training", "Smoothed", "At step", "Held-out", "At step")


def value_table(metrics: Metrics, config: TrainConfig, view: ChartView) -> str:
    """Return the latest values on training and held-out pairs."""
    rows = "".join(
        _row(plot, quantity, metrics, view)
        for plot in PLOTS
        for quantity in quantities_of(plot, config)
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in HEAD)
    return (
        f'<div class="values-scroll"><table class="values-table"><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _row(plot: Plot, quantity: Quantity, metrics: Metrics, view: ChartView) -> str:
    smooth = metrics.course(quantity.metric, smoothing=view.smoothing)
    cells = [html.escape(plot.unit) or "–"]
    for held_out in (False, True):
        course = metrics.course(quantity.metric, held_out=held_out)
        cells.append(_last(plot, course, quantity.factor))
        if not held_out:
            cells.append(_last(plot, smooth, quantity.factor))
        cells.append(f"{course.steps[-1]:,}" if len(course) else "–")
    columns = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr><th scope="row">{html.escape(quantity.label)}</th>{columns}</tr>'


def _last(plot: Plot, course: Course, factor: float) -> str:
    return plot.format(factor * float(course.values[-1])) if len(course) else "–"
