"""Histograms of token counts: bars as a stretching SVG, labels as HTML of fixed size."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from orpo_qlora.charts.lines import SIZE, tick_label
from orpo_qlora.charts.plots import BLUE, GREEN, ORANGE
from orpo_qlora.charts.scales import Scale, round_step
from orpo_qlora.jobs.token_counts import TokenLengths
from orpo_qlora.jobs.token_report import LengthReport, differences_of, quantile

BARS = 32
"""Approximate number of bars; their width is a round number of tokens."""
TAIL = 2.0
"""Values beyond this multiple of the 99th percentile are collected in the last bar."""


@dataclass(frozen=True)
class Series:
    """One quantity of a histogram: a token count per pair."""

    label: str
    colour: str
    values: Sequence[int]


@dataclass(frozen=True)
class Histogram:
    """Quantities that share their axes."""

    name: str
    title: str
    series: tuple[Series, ...]
    facts: str
    """The main numbers in a sentence, also read by screen readers."""
    limit: int | None = None
    """`max_length` in tokens, drawn as a line; None where it does not apply."""


@dataclass(frozen=True)
class Bins:
    """Bins of equal width; the last one also counts all values beyond it."""

    low: int
    width: int
    count: int
    is_open: bool
    """Whether values beyond the axis are counted in the last bar."""

    @property
    def high(self) -> int:
        """End of the axis, in tokens."""
        return self.low + self.width * self.count

    def tally(self, values: Sequence[int]) -> list[int]:
        """Return the number of values per bin."""
        found = [0] * self.count
        for value in values:
            found[min(self.count - 1, (value - self.low) // self.width)] += 1
        return found

    def name(self, index: int) -> str:
        """Return a bin's range as text."""
        first = self.low + index * self.width
        if self.is_open and index == self.count - 1:
            return f"{first:,} tokens or more"
        if self.width == 1:
            return f"{first:,} tokens"
        return f"{first:,} to {first + self.width - 1:,} tokens"


def histograms_of(lengths: TokenLengths, report: LengthReport) -> tuple[Histogram, ...]:
    """Return the histograms of a file's token counts."""
    limit = report.max_length
    differences = differences_of(lengths)
    return (
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
                Series("chosen", BLUE, lengths.chosen),
                Series("rejected", ORANGE, lengths.rejected),
            ),
            f"Chosen: {report.chosen.sentence()}. Rejected: {report.rejected.sentence()}.",
            limit,
        ),
        Histogram(
            "difference",
            "Chosen minus rejected",
            (Series("difference", BLUE, differences),),
            report.difference_sentence(),
        ),
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def choose_bins(values: Sequence[int], limit: int | None) -> Bins:
    """Return bins for token counts; a few outliers do not compress all others into one bar."""
    low, high = min(0, *values), max(values)
    typical = quantile(values, 0.99)
    is_open = high > TAIL * max(typical, 1)
    if is_open:
        high = typical
    if limit is not None and high < limit <= TAIL * high:
        high = limit
    width = max(1, math.ceil(round_step(max(1, high - low + 1) / BARS)))
    first = math.floor(low / width) * width
    return Bins(first, width, max(1, math.ceil((high + 1 - first) / width)), is_open)


def draw_histogram(histogram: Histogram) -> str:
    """Return a histogram as HTML."""
    everything = [value for series in histogram.series for value in series.values]
    bins = choose_bins(everything, histogram.limit)
    tallies = [bins.tally(series.values) for series in histogram.series]
    label = html.escape(f"{histogram.title}, tokens: {histogram.facts}")
    return (
        f'<figure class="chart card histogram" data-histogram="{histogram.name}" role="group" '
        f'aria-label="{label}">'
        f'<figcaption class="chart-title">{html.escape(histogram.title)} <small>tokens</small>'
        f"</figcaption>{_area(histogram, bins, tallies)}{_legend(histogram)}"
        f'<p class="quiet">{html.escape(histogram.facts)}</p></figure>'
    )


def _area(histogram: Histogram, bins: Bins, tallies: Sequence[Sequence[int]]) -> str:
    x = Scale(bins.low, bins.high)
    y = Scale(0, max(1, *(count for tally in tallies for count in tally)) * 1.06)
    ticks = [tick for tick in y.ticks() if tick == int(tick)]
    grid = "".join(f'<path class="grid" d="M0 {_down(y, tick)}H{SIZE}"/>' for tick in ticks)
    labels = "".join(
        (
            *(tick_label("tick-y", "top", 1 - y.place(tick), f"{tick:,.0f}") for tick in ticks),
            *(tick_label("tick-x", "left", x.place(t), f"{t:,.0f}") for t in _whole(x.ticks())),
        )
    )
    bars = "".join(
        _bars(series, tally, bins, y)
        for series, tally in zip(histogram.series, tallies, strict=True)
    )
    return (
        '<div class="chart-area">'
        f'<svg viewBox="0 0 {SIZE} {SIZE}" preserveAspectRatio="none" aria-hidden="true">'
        f"{grid}{bars}{_zero(x)}{_limit_line(histogram.limit, x)}</svg>"
        f"{labels}{_limit_label(histogram.limit, x)}"
        '<span class="axis-x">tokens, against pairs</span></div>'
    )


def _bars(series: Series, tally: Sequence[int], bins: Bins, y: Scale) -> str:
    width = SIZE / bins.count
    gap = width * 0.08
    return "".join(
        f'<rect x="{index * width + gap:.1f}" y="{_down(y, count)}" width="{width - 2 * gap:.1f}" '
        f'height="{SIZE * y.place(count):.1f}" fill="{series.colour}">'
        f"<title>{bins.name(index)}: {count:,} {series.label}</title></rect>"
        for index, count in enumerate(tally)
        if count
    )


def _zero(x: Scale) -> str:
    return f'<path class="zero" d="M{SIZE * x.place(0):.1f} 0V{SIZE}"/>' if x.low < 0 else ""


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


def _legend(histogram: Histogram) -> str:
    if len(histogram.series) < 2:
        return ""
    entries = "".join(
        f'<li><span class="swatch" style="border-color:{series.colour}"></span>'
        f"{html.escape(series.label)}</li>"
        for series in histogram.series
    )
    return f'<ul class="legend">{entries}</ul>'


def _whole(ticks: list[float]) -> list[float]:
    return [tick for tick in ticks if tick == int(tick)]


def _down(y: Scale, value: float) -> str:
    return f"{SIZE - SIZE * y.place(value):.1f}"
