"""Margins of held-out pairs before and after training: bars as SVG that stretches. Floor 5."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orpo_qlora.charts.lines import SIZE, tick_label
from orpo_qlora.charts.plots import BLUE, ORANGE

BARS, TICKS = 24, 6
FAR = 0.5
"""Per cent of the pairs at either end that may lie beyond the axis; the outer bars take them in."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Bins:
    """Equal stretches of the value axis, 0 at one of their edges; the outer ones are open."""

    first: int
    """How many stretches the axis begins above 0; below it if negative."""
    width: float
    count: int

    @property
    def low(self) -> float:
        """Where the axis begins."""
        return self.first * self.width

    @property
    def high(self) -> float:
        """Where the axis ends."""
        return (self.first + self.count) * self.width

    def tally(self, values: Values) -> list[int]:
        """Return how many values fall into each stretch; 0 itself counts as below."""
        places = np.ceil(values / self.width).astype(int) - 1 - self.first
        tally: list[int] = np.bincount(
            np.clip(places, 0, self.count - 1), minlength=self.count
        ).tolist()
        return tally

    def name(self, index: int) -> str:
        """Return which values a stretch holds, in words."""
        start = self.low + index * self.width
        if index == 0:
            return f"{start + self.width:.3g} or less"
        if index == self.count - 1:
            return f"more than {start:.3g}"
        return f"{start:.3g} to {start + self.width:.3g}"

    def place(self, value: float) -> float:
        """Return where a value lies along the axis, 0 to 1."""
        return (value - self.low) / (self.high - self.low)


def choose_bins(values: Values) -> Bins:
    """Return about `BARS` stretches of a round width, some on either side of 0."""
    low, high = np.percentile(values, [FAR, 100 - FAR])
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    width = _round((high - low or 1.0) / BARS)
    first = min(-1, math.floor(low / width))
    return Bins(first, width, max(1, math.ceil(high / width)) - first)


def _round(rough: float) -> float:
    """Return the next larger 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next((power * factor for factor in (1, 2, 5) if rough <= power * factor), power * 10)


def draw_margins(before: Values, after: Values) -> str:
    """Return how the margins were and are distributed, as HTML."""
    bins = choose_bins(np.concatenate([before, after]))
    sides = (("base", ORANGE, before), ("tuned", BLUE, after))
    tallies = [bins.tally(values) for _, _, values in sides]
    top = max(1, *(count for tally in tallies for count in tally)) * 1.06
    bars = "".join(
        _bars(label, colour, tally, bins, top)
        for (label, colour, _), tally in zip(sides, tallies, strict=True)
    )
    facts = ", ".join(
        f"{label}: {np.median(values):+.3g} in the middle, {(values > 0).mean():.0%} above 0"
        for label, _, values in sides
    ).replace("%", " %")
    zero = f'<path class="zero" d="M{SIZE * bins.place(0):.1f} 0V{SIZE}"/>'
    legend = "".join(
        f'<li><span class="swatch" style="border-color:{colour};color:{colour}"></span>{label}</li>'
        for label, colour, _ in sides
    )
    return (
        '<figure class="chart card histogram" data-histogram="margins" role="group" '
        f'aria-label="Margins of the held-out pairs. {html.escape(facts)}">'
        '<figcaption class="chart-title">Margins of the held-out pairs '
        "<small>nats a token, chosen minus rejected</small></figcaption>"
        '<div class="chart-area">'
        f'<svg viewBox="0 0 {SIZE} {SIZE}" preserveAspectRatio="none" aria-hidden="true">'
        f"{bars}{zero}</svg>{_labels(bins, top)}"
        '<span class="axis-x">margin, against pairs</span></div>'
        f'<ul class="legend">{legend}</ul><p class="quiet">{html.escape(facts)}.</p></figure>'
    )


def _bars(label: str, colour: str, tally: Sequence[int], bins: Bins, top: float) -> str:
    width = SIZE / bins.count
    gap = width * 0.06
    return "".join(
        f'<rect x="{index * width + gap:.1f}" y="{SIZE - SIZE * count / top:.1f}" '
        f'width="{width - 2 * gap:.1f}" height="{SIZE * count / top:.1f}" fill="{colour}">'
        f"<title>{label}, {bins.name(index)}: {count:,}</title></rect>"
        for index, count in enumerate(tally)
        if count
    )


def _labels(bins: Bins, top: float) -> str:
    across, up = _round((bins.high - bins.low) / TICKS), max(1, math.ceil(_round(top / TICKS)))
    first, last = math.ceil(bins.low / across), math.floor(bins.high / across)
    marks = [index * across for index in range(first, last + 1)]
    return "".join(
        (
            *(tick_label("tick-x", "left", bins.place(mark), f"{mark:g}") for mark in marks),
            *(
                tick_label("tick-y", "top", 1 - count / top, f"{count:,}")
                for count in range(0, math.floor(top) + 1, up)
            ),
        )
    )
