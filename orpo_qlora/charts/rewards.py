"""Histogram of the rewards of several models' answers (ORPO paper, Figure 5)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from orpo_qlora.charts.bars import BarChart, Bins, Series, draw_bars
from orpo_qlora.charts.plots import BLUE, ORANGE
from orpo_qlora.charts.scales import round_step

BARS = 24
TAIL_PERCENT = 0.5
"""Per cent of the rewards at either end that may lie beyond the axis; the outer bars count them."""
COLOURS = (ORANGE, BLUE, "#2e8b57", "#8a4fbf", "#b0413e", "#5f6b7a")


def draw_rewards(rewards: Mapping[str, Sequence[float]]) -> str:
    """Return the distributions of rewards as HTML.

    Args:
        rewards: of each model's answers, by its name; the base first, at least one reward each.
    """
    everything = np.concatenate([np.asarray(values, np.float64) for values in rewards.values()])
    low, high = np.percentile(everything, [TAIL_PERCENT, 100 - TAIL_PERCENT])
    width = round_step((float(high - low) or 1.0) / BARS)
    first = math.floor(low / width)
    bins = Bins(first, width, max(1, math.floor(high / width) - first + 1))
    series = tuple(
        Series(name, COLOURS[place % len(COLOURS)], values)
        for place, (name, values) in enumerate(rewards.items())
    )
    facts = ", ".join(
        f"{name}: median {np.median(values):+.3g}" for name, values in rewards.items()
    )
    chart = BarChart(
        "rewards",
        "Rewards of the answers",
        "reward, no unit",
        "reward, number of answers",
        series,
        f"{facts[:1].upper()}{facts[1:]}.",
    )
    names = [f"{bins.start(at):.3g} to {bins.start(at) + width:.3g}" for at in range(bins.count)]
    return draw_bars(chart, bins, names)
