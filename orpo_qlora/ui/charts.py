"""Curves to a chart: one SVG that stretches, labels that do not, values for the pointer. Floor 5.

Not gr.LinePlot: it cannot dash a curve or mark a single measurement, loses curves whose first
point comes after the first drawing, has nothing for a screen reader, and lays out four Vega charts
every two seconds on the machine that is training.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from orpo_qlora.ui.plots import Curve, Plot, Points

SIZE = 1000
"""Width and height of the drawing in its own units; the page stretches it."""
TICKS = 6


@dataclass(frozen=True)
class Scale:
    """A linear map from values to places along an axis."""

    low: float
    high: float

    def place(self, value: float) -> float:
        """Return where a value lies, 0 at the low end and 1 at the high end."""
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Return the round numbers to label, about `TICKS` of them."""
        step = round_step((self.high - self.low) / TICKS)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(index * step, 10) for index in range(first, last + 1)]


def draw_chart(plot: Plot, curves: Sequence[Curve], last_step: int) -> str:
    """Return a plot as HTML.

    Args:
        plot: what is drawn.
        curves: its curves, each with a point or more.
        last_step: the last step of the run, so that the axis stands still while it trains; 0 if
            unknown.
    """
    title = f'<figcaption class="chart-title">{plot.title} <small>{plot.unit}</small></figcaption>'
    good = f'<p class="quiet">Good: {html.escape(plot.good)}.</p>'
    legend = f'<ul class="legend">{"".join(_legend_entry(plot, curve) for curve in curves)}</ul>'
    return (
        f'<figure class="chart card" data-plot="{plot.name}" role="group" '
        f'aria-label="{html.escape(_spoken(plot, curves))}">'
        f"{title}{_area(plot, curves, last_step)}{legend}{good}</figure>"
    )


def _spoken(plot: Plot, curves: Sequence[Curve]) -> str:
    latest = [
        f"{curve.label} {plot.format(curve.points[-1][1])} at step {curve.points[-1][0]}"
        for curve in curves
    ]
    return f"{plot.title}: {'; '.join(latest) or 'nothing measured yet'}"


def _area(plot: Plot, curves: Sequence[Curve], last_step: int) -> str:
    if not curves:
        return '<div class="chart-area chart-waiting">Nothing measured yet.</div>'
    steps = [step for curve in curves for step, _ in curve.points]
    x = Scale(0, max(1, last_step, *steps))
    y = _value_scale(plot, curves)
    labels = "".join(
        (
            *(
                tick_label("tick-y", "top", 1 - y.place(tick), plot.format(tick))
                for tick in y.ticks()
            ),
            *(
                tick_label("tick-x", "left", x.place(tick), f"{tick:,.0f}")
                for tick in _whole(x.ticks())
            ),
        )
    )
    lines = "".join(f'<path class="grid" d="M0 {_down(y, tick)}H{SIZE}"/>' for tick in y.ticks())
    drawn = "".join(_drawn(curve, x, y) for curve in curves)
    return (
        f'<div class="chart-area" data-low="{x.low:g}" data-high="{x.high:g}" '
        f'data-curves="{html.escape(_pointer_values(plot, curves))}">'
        f'<svg viewBox="0 0 {SIZE} {SIZE}" preserveAspectRatio="none" aria-hidden="true">'
        f"{lines}{drawn}</svg>{labels}"
        '<span class="axis-x">optimizer step</span></div>'
    )


def tick_label(kind: str, side: str, share: float, text: str) -> str:
    """Return a label that stands at a share of a chart's height or width."""
    return f'<span class="{kind}" style="{side}:{100 * share:.2f}%">{text}</span>'


def _whole(ticks: list[float]) -> list[float]:
    return [tick for tick in ticks if tick == int(tick)]


def _drawn(curve: Curve, x: Scale, y: Scale) -> str:
    places = [f"{SIZE * x.place(step):.1f} {_down(y, value)}" for step, value in curve.points]
    kind = "curve curve-held-out" if curve.is_held_out else "curve"
    line = f'<path class="{kind}" stroke="{curve.colour}" d="M{"L".join(places)}"/>'
    if not curve.is_held_out and len(places) > 1:
        return line
    # A line without length and with round ends is a dot that stays round when stretched.
    dots = "".join(f"M{place}h0" for place in places)
    return f'{line}<path class="dots" stroke="{curve.colour}" d="{dots}"/>'


def _down(y: Scale, value: float) -> str:
    return f"{SIZE - SIZE * y.place(value):.1f}"


def _value_scale(plot: Plot, curves: Sequence[Curve]) -> Scale:
    if plot.limits:
        return Scale(*plot.limits)
    values = [value for curve in curves for _, value in curve.points]
    low, high = min(values), max(values)
    if low >= 0 and low < (high - low):
        low = 0.0
    margin = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return Scale(low - (margin if low else 0.0), high + margin)


def round_step(rough: float) -> float:
    """Return the next larger 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next((power * factor for factor in (1, 2, 5) if rough <= power * factor), power * 10)


def _legend_entry(plot: Plot, curve: Curve) -> str:
    kind = "swatch swatch-held-out" if curve.is_held_out else "swatch"
    return (
        f'<li><span class="{kind}" style="border-color:{curve.colour}"></span>'
        f"{html.escape(curve.label)} <b>{plot.format(curve.points[-1][1])}</b></li>"
    )


def _pointer_values(plot: Plot, curves: Sequence[Curve]) -> str:
    return json.dumps(
        [
            {"label": curve.label, "colour": curve.colour, "points": _texts(plot, curve.points)}
            for curve in curves
        ],
        ensure_ascii=False,
        separators=(",", ":"),
    )


def _texts(plot: Plot, points: Points) -> list[tuple[int, str]]:
    return [(step, plot.format(value)) for step, value in points]
