"""Histograms: equal bins of a value axis, drawn as bars in an SVG that stretches."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orpo_qlora.charts.lines import SIZE, tick_label
from orpo_qlora.charts.scales import Scale

GAP = 0.08
"""Share of a bar's width left free on either side."""
HEADROOM = 1.06

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Bins:
    """Equal bins with 0 on an edge; values beyond either end count in the outer bins."""

    first: int
    """Index of the first bin: it begins at `first * width`."""
    width: float
    count: int
    closed: str = "left"
    """Which edge belongs to a bin: `left` for [a, b), `right` for (a, b]."""
    is_open: bool = False
    """Whether values beyond the last edge are expected, so that the last bin is named “or more”."""

    @property
    def low(self) -> float:
        """Start of the axis."""
        return self.first * self.width

    @property
    def high(self) -> float:
        """End of the axis."""
        return (self.first + self.count) * self.width

    def start(self, index: int) -> float:
        """Return where a bin begins."""
        return self.low + index * self.width

    def tally(self, values: Sequence[float] | Values) -> list[int]:
        """Return the number of values in each bin."""
        scaled = np.asarray(values, np.float64) / self.width
        places = np.floor(scaled) if self.closed == "left" else np.ceil(scaled) - 1
        inside = np.clip(places - self.first, 0, self.count - 1).astype(int)
        tally: list[int] = np.bincount(inside, minlength=self.count).tolist()
        return tally


@dataclass(frozen=True)
class Series:
    """One quantity of a histogram: a value for every pair."""

    label: str
    colour: str
    values: Sequence[float] | Values


@dataclass(frozen=True)
class BarChart:
    """A histogram without its bins: series that share both axes, and the texts around them."""

    name: str
    title: str
    unit: str
    axis: str
    """Caption of the value axis."""
    series: tuple[Series, ...]
    facts: str
    """The result in words, below the chart and for screen readers."""
    is_whole: bool = False
    """Whether the values are whole numbers, so that only whole numbers label the axis."""


def draw_bars(
    chart: BarChart, bins: Bins, names: Sequence[str], marks: str = "", labels: str = ""
) -> str:
    """Return a histogram as HTML.

    Args:
        chart: the series and their texts.
        bins: the bins.
        names: each bin's values in words, for its tooltip.
        marks: SVG drawn above the bars.
        labels: HTML drawn beside the axis labels.
    """
    spoken = html.escape(f"{chart.title}, {chart.unit}: {chart.facts}")
    return (
        f'<figure class="chart card histogram" data-histogram="{chart.name}" role="group" '
        f'aria-label="{spoken}">'
        f'<figcaption class="chart-title">{html.escape(chart.title)} '
        f"<small>{html.escape(chart.unit)}</small></figcaption>"
        f"{_area(chart, bins, names, marks, labels)}{_legend(chart)}"
        f'<p class="quiet">{html.escape(chart.facts)}</p></figure>'
    )


def _area(chart: BarChart, bins: Bins, names: Sequence[str], marks: str, labels: str) -> str:
    tallies = [bins.tally(series.values) for series in chart.series]
    x = Scale(bins.low, bins.high)
    y = Scale(0, max(1, *(count for tally in tallies for count in tally)) * HEADROOM)
    bars = "".join(
        _bars(series, tally, names, y) for series, tally in zip(chart.series, tallies, strict=True)
    )
    grid = "".join(f'<path class="grid" d="M0 {_down(y, tick)}H{SIZE}"/>' for tick in _whole(y))
    return (
        '<div class="chart-area">'
        f'<svg viewBox="0 0 {SIZE} {SIZE}" preserveAspectRatio="none" aria-hidden="true">'
        f"{grid}{bars}{_zero(x)}{marks}</svg>"
        f"{_tick_labels(chart, x, y)}{labels}"
        f'<span class="axis-x">{html.escape(chart.axis)}</span></div>'
    )


def _bars(series: Series, tally: Sequence[int], names: Sequence[str], y: Scale) -> str:
    width = SIZE / len(tally)
    gap = width * GAP
    return "".join(
        f'<rect x="{index * width + gap:.1f}" y="{_down(y, count)}" width="{width - 2 * gap:.1f}" '
        f'height="{SIZE * y.place(count):.1f}" fill="{series.colour}">'
        f"<title>{html.escape(series.label)}, {names[index]}: {count:,}</title></rect>"
        for index, count in enumerate(tally)
        if count
    )


def _tick_labels(chart: BarChart, x: Scale, y: Scale) -> str:
    digits = ",.0f" if chart.is_whole else "g"
    across = _whole(x) if chart.is_whole else x.ticks()
    return "".join(
        (
            *(tick_label("tick-y", "top", 1 - y.place(t), f"{t:,.0f}") for t in _whole(y)),
            *(tick_label("tick-x", "left", x.place(t), f"{t:{digits}}") for t in across),
        )
    )


def _zero(x: Scale) -> str:
    return f'<path class="zero" d="M{SIZE * x.place(0):.1f} 0V{SIZE}"/>' if x.low < 0 else ""


def _legend(chart: BarChart) -> str:
    if len(chart.series) < 2:
        return ""
    entries = "".join(
        f'<li><span class="swatch" style="border-color:{series.colour};color:{series.colour}">'
        f"</span>{html.escape(series.label)}</li>"
        for series in chart.series
    )
    return f'<ul class="legend">{entries}</ul>'


def _whole(scale: Scale) -> list[float]:
    return [tick for tick in scale.ticks() if tick == math.floor(tick)]


def _down(y: Scale, value: float) -> str:
    return f"{SIZE - SIZE * y.place(value):.1f}"
