"""Histograms of the token counts of a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orpo_qlora.charts.bars import BarChart, Bins, Series, draw_bars
from orpo_qlora.charts.lines import SIZE, tick_label
from orpo_qlora.charts.plots import BLUE, GREEN, ORANGE
from orpo_qlora.charts.scales import Scale, round_step
from orpo_qlora.jobs.token_counts import TokenLengths
from orpo_qlora.jobs.token_report import LengthReport, differences_of, quantile

BARS = 32
"""Approximate number of bars; their width is a round number of tokens."""
TAIL = 2.0
"""A value this many times the 99th percentile counts in the last bar."""


@dataclass(frozen=True)
class Histogram:
    """Quantities that share their axes."""

    name: str
    title: str
    series: tuple[Series, ...]
    facts: str
    """The result in words, also for screen readers."""
    limit: int | None = None
    """`max_length`, drawn as a line; None where it does not apply."""


def histograms_of(lengths: TokenLengths, report: LengthReport) -> tuple[Histogram, ...]:
    """Return the histograms of a file's token counts."""
    limit = report.max_length
    differences = differences_of(lengths)
    found = (
        Histogram(
            "whole",
            "Prompt and longer response",
            (Series("pairs", GREEN, lengths.longest()),),
            _sentence(report.whole.sentence()),
            limit,
        ),
        Histogram(
            "prompt",
            "Prompt",
            (Series("prompt", GREEN, lengths.prompt),),
            _sentence(report.prompt.sentence()),
            limit,
        ),
        Histogram(
            "answers",
            "Responses",
            (
                Series("chosen", BLUE, [count for count in lengths.chosen if count]),
                Series("rejected", ORANGE, [count for count in lengths.rejected if count]),
            ),
            " ".join(
                f"{side}: {spread.sentence()}."
                for side, spread in (("Chosen", report.chosen), ("Rejected", report.rejected))
                if spread
            ),
            limit,
        ),
        Histogram(
            "difference",
            "Chosen minus rejected",
            (Series("difference", BLUE, differences),),
            report.difference_sentence(),
        ),
    )
    return found if differences else found[:-1]  # without pairs there is nothing to subtract


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def choose_bins(values: Sequence[int], limit: int | None) -> Bins:
    """Return bins for whole numbers; a few far values are counted in the last bar."""
    low, high = min(0, *values), max(values)
    typical = quantile(values, 0.99)
    is_open = high > TAIL * max(typical, 1)
    if is_open:
        high = typical
    if limit is not None and high < limit <= TAIL * high:
        high = limit
    width = max(1, math.ceil(round_step(max(1, high - low + 1) / BARS)))
    first = math.floor(low / width)
    return Bins(first, width, max(1, math.ceil((high + 1) / width) - first), is_open=is_open)


def bin_name(bins: Bins, index: int) -> str:
    """Return which token counts a bin holds, in words."""
    first = bins.start(index)
    if bins.is_open and index == bins.count - 1:
        return f"{first:,} tokens or more"
    if bins.width == 1:
        return f"{first:,} tokens"
    return f"{first:,} to {first + bins.width - 1:,} tokens"


def draw_histogram(histogram: Histogram) -> str:
    """Return a histogram as HTML."""
    everything = [int(value) for series in histogram.series for value in series.values]
    bins = choose_bins(everything, histogram.limit)
    chart = BarChart(
        histogram.name,
        histogram.title,
        "tokens",
        "tokens, number of pairs",
        histogram.series,
        histogram.facts,
        is_whole=True,
    )
    names = [bin_name(bins, index) for index in range(bins.count)]
    x, limit = Scale(bins.low, bins.high), histogram.limit
    return draw_bars(chart, bins, names, _limit_line(limit, x), _limit_label(limit, x))


def _limit_line(limit: int | None, x: Scale) -> str:
    if limit is None or limit > x.high:
        return ""
    return f'<path class="limit" d="M{SIZE * x.place(limit):.1f} 0V{SIZE}"/>'


def _limit_label(limit: int | None, x: Scale) -> str:
    if limit is None:
        return ""
    if limit > x.high:
        return f'<span class="limit-label limit-beyond">max_length {limit:,} →</span>'
    place = x.place(limit)
    side = "limit-left" if place > 0.5 else "limit-right"
    return tick_label(f"limit-label {side}", "left", place, f"max_length {limit:,}")
