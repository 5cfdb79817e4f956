"""Runs to plots: which metrics belong together, in which colours, and their points. Floor 5."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from orpo_qlora.runs.metrics import MetricsTail
from orpo_qlora.ui import present
from orpo_qlora.ui.cards import Tile

MOST_POINTS = 500
"""Points drawn per series; more cannot be told apart on a screen and cost time on every poll."""

Points = list[tuple[int, float]]

# Okabe and Ito's colours, darkened or lightened until each has a contrast of 3 to 1 or more on the
# light and on the dark page. Held-out pairs have the same hue as training pairs, but stronger.
BLUE, BLUE_STRONG = "#5b9bd5", "#1f6fc2"
ORANGE, ORANGE_STRONG = "#e08a3c", "#c2570c"
GREEN, GREEN_STRONG = "#3fae8f", "#0d8464"


@dataclass(frozen=True)
class Series:
    """One curve: a metric on training or on held-out pairs."""

    label: str
    metric: str
    colour: str
    is_held_out: bool = False
    has_lambda: bool = False
    """Whether the metric is multiplied by λ, so that the parts of the loss add up."""


@dataclass(frozen=True)
class Plot:
    """Curves that share their axes."""

    name: str
    title: str
    y_title: str
    good: str
    """What a good course looks like."""
    series: tuple[Series, ...]
    format: Callable[[float], str] = present.number

    @property
    def colours(self) -> dict[str, str]:
        """The colour of each curve by its label; fixed, whatever has been measured so far."""
        return {series.label: series.colour for series in self.series}


def _pair(
    metric: str, label: str, colours: tuple[str, str], has_lambda: bool = False
) -> list[Series]:
    train, held_out = colours
    return [
        Series(label, metric, train, has_lambda=has_lambda),
        Series(f"{label} held-out", metric, held_out, is_held_out=True, has_lambda=has_lambda),
    ]


PLOTS = (
    Plot(
        "loss",
        "Loss and its parts",
        "nats",
        "falls, and the held-out loss falls with it",
        (
            *_pair("loss", "loss", (BLUE, BLUE_STRONG)),
            *_pair("nll_loss", "NLL", (GREEN, GREEN_STRONG)),
            *_pair("or_loss", "λ·OR", (ORANGE, ORANGE_STRONG), has_lambda=True),
        ),
    ),
    Plot(
        "logps",
        "Log-prob of the answers",
        "nats per token",
        "chosen rises, rejected stays below",
        (
            *_pair("logps/chosen", "chosen", (BLUE, BLUE_STRONG)),
            *_pair("logps/rejected", "rejected", (ORANGE, ORANGE_STRONG)),
        ),
    ),
    Plot(
        "margin",
        "Reward margin",
        "nats",
        "grows above 0",
        tuple(_pair("rewards/margins", "margin", (BLUE, BLUE_STRONG))),
    ),
    Plot(
        "accuracy",
        "Preference accuracy",
        "share of pairs",
        "rises towards 100 %",
        tuple(_pair("rewards/accuracies", "accuracy", (BLUE, BLUE_STRONG))),
        present.percent,
    ),
)


def points_of(series: Series, metrics: MetricsTail, lambda_: float) -> Points:
    """Return the points of one curve, thinned to what a screen can show."""
    points = metrics.series(series.metric, held_out=series.is_held_out)
    if series.has_lambda:
        points = [(step, lambda_ * value) for step, value in points]
    return thinned(points)


def thinned(points: Sequence[tuple[int, float]], most: int = MOST_POINTS) -> Points:
    """Return at most `most` points; the lowest and the highest of each stretch stay."""
    if len(points) <= most:
        return list(points)
    stretches = most // 2 - 1
    kept = [points[0]]
    inner = points[1:-1]
    for index in range(stretches):
        first, last = (len(inner) * (index + edge) // stretches for edge in (0, 1))
        stretch = inner[first:last]
        extremes = {
            min(stretch, key=lambda point: point[1]),
            max(stretch, key=lambda point: point[1]),
        }
        kept.extend(sorted(extremes))
    return [*kept, points[-1]]


def frame_of(plot: Plot, metrics: MetricsTail, lambda_: float) -> pd.DataFrame:
    """Return a plot's points as a table with the columns step, value and series."""
    rows = [
        (step, value, series.label)
        for series in plot.series
        for step, value in points_of(series, metrics, lambda_)
    ]
    return pd.DataFrame(rows, columns=["step", "value", "series"])


def headline_tiles(metrics: MetricsTail) -> list[Tile]:
    """Return the headline numbers, on held-out pairs where there are any."""
    tiles = []
    for plot in PLOTS:
        if plot.name == "logps":
            continue
        metric = plot.series[0].metric
        held_out = metrics.series(metric, held_out=True)
        points = held_out or metrics.series(metric)
        if points:
            before = plot.format(points[0][1]) if len(points) > 1 else ""
            side = "held-out" if held_out else "training"
            name = plot.series[0].label
            title = f"{name[:1].upper()}{name[1:]}, {side}"
            tiles.append(Tile(title, before, plot.format(points[-1][1]), plot.good))
    return tiles
