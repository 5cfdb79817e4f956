"""Histogram of the margins of held-out pairs, before and after training."""

from __future__ import annotations

import math

import numpy as np

from orpo_qlora.charts.bars import BarChart, Bins, Series, Values, draw_bars
from orpo_qlora.charts.plots import BLUE, ORANGE
from orpo_qlora.charts.scales import round_step

BARS = 24
TAIL_PERCENT = 0.5
"""Per cent of the pairs at either end that may lie beyond the axis; the outer bars count them."""


def choose_bins(values: Values) -> Bins:
    """Return about `BARS` bins of a round width, at least one on either side of 0."""
    low, high = np.percentile(values, [TAIL_PERCENT, 100 - TAIL_PERCENT])
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    width = round_step((high - low or 1.0) / BARS)
    first = min(-1, math.floor(low / width))
    # A margin of 0 prefers neither answer: it counts as not above 0.
    return Bins(first, width, max(1, math.ceil(high / width)) - first, closed="right")


def draw_margins(before: Values, after: Values) -> str:
    """Return the distributions of margins before and after training as HTML.

    Args:
        before: margins of the base model, chosen minus rejected mean log-prob in nats per token.
        after: margins of the tuned model on the same pairs.
    """
    bins = choose_bins(np.concatenate([before, after]))
    series = (Series("base", ORANGE, before), Series("tuned", BLUE, after))
    facts = ", ".join(
        f"{label}: median {np.median(values):+.3g}, {(values > 0).mean():.0%} above 0"
        for label, values in (("base", before), ("tuned", after))
    ).replace("%", " %")
    chart = BarChart(
        "margins",
        "Margins of the held-out pairs",
        "nats per token, chosen minus rejected",
        "margin, number of pairs",
        series,
        f"{facts[:1].upper()}{facts[1:]}.",
    )
    return draw_bars(chart, bins, [_bin_name(bins, index) for index in range(bins.count)])


def _bin_name(bins: Bins, index: int) -> str:
    start = bins.start(index)
    if index == 0:
        return f"{start + bins.width:.3g} or less"
    if index == bins.count - 1:
        return f"more than {start:.3g}"
    return f"{start:.3g} to {start + bins.width:.3g}"
