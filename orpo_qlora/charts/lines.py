"""Line charts as HTML: a stretching SVG, fixed-size labels, values for the pointer.

Not gr.LinePlot: it has no dashed curves, no marker for a single measurement and no text for screen
readers, drops curves whose first point comes after the first render, and lays out Vega charts every
two seconds on the machine that trains.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from orpo_qlora.charts.plots import AS_MEASURED, Curve, Plot, Points
from orpo_qlora.charts.scales import Scale
from orpo_qlora.charts.view import ChartView

SIZE = 1000
"""Width and height of the SVG in its own units; the page stretches it."""
MOST_MARKS = 40
"""Most non-finite steps that are marked; the legend counts all."""
SHORT_FROM = 10_000
DIGITS = 5
"""Significant digits of the values at the pointer."""


@dataclass(frozen=True)
class _Frame:
    """Both axes of a chart."""

    x: Scale
    y: Scale
    is_zoomed: bool

    def across(self, step: float) -> str:
        return f"{SIZE * self.x.place(step):.1f}"

    def down(self, value: float) -> str:
        return f"{SIZE - SIZE * self.y.place(value):.1f}"

    def places(self, points: Points) -> list[str]:
        """Return SVG coordinates; a logarithmic axis skips values of 0 or less.

        In whole units, a fraction of a pixel each: half the time to write, a third shorter.
        """
        shown = points if not self.y.is_log else [point for point in points if point[1] > 0]
        if not shown:
            return []
        steps, values = zip(*shown, strict=True)
        across = np.rint(SIZE * self.x.places(steps)).astype(int).tolist()
        down = np.rint(SIZE - SIZE * self.y.places(values)).astype(int).tolist()
        return [f"{x} {y}" for x, y in zip(across, down, strict=True)]


def draw_chart(
    plot: Plot, curves: Sequence[Curve], last_step: int, view: ChartView = AS_MEASURED
) -> str:
    """Return a plot as HTML.

    Args:
        plot: title, unit and kind.
        curves: the curves.
        last_step: the last step of the run, so that the axis is fixed while it trains; 0 if
            unknown.
        view: range of steps and kind of axis.
    """
    frame = _frame(plot, curves, last_step, view)
    curves = curves if frame is not None else ()
    log = ", logarithmic" if frame is not None and frame.y.is_log else ""
    title = (
        f'<figcaption class="chart-title">{html.escape(plot.title)} '
        f"<small>{html.escape(plot.unit)}{log}</small></figcaption>"
    )
    good = f'<p class="quiet">Good: {html.escape(plot.good)}.</p>'
    entries = "".join(_legend_entry(plot, curve) for curve in curves if curve.points)
    legend = f'<ul class="legend">{entries}{_broken_entry(curves)}</ul>'
    return (
        f'<figure class="chart card" data-plot="{plot.name}" role="group" '
        f'aria-label="{html.escape(_spoken(plot, curves, view))}">'
        f"{title}{_area(plot, curves, frame, view)}{legend}{good}</figure>"
    )


def _spoken(plot: Plot, curves: Sequence[Curve], view: ChartView) -> str:
    latest = [
        f"{curve.label} {plot.format(curve.points[-1][1])} at step {curve.points[-1][0]}"
        for curve in curves
        if curve.points
    ]
    return f"{plot.title}: {'; '.join(latest) or _why_empty(view)}"


def _why_empty(view: ChartView) -> str:
    return "nothing measured yet" if view.steps is None else "nothing was measured in these steps"


def _area(plot: Plot, curves: Sequence[Curve], frame: _Frame | None, view: ChartView) -> str:
    if frame is None:
        return f'<div class="chart-area chart-waiting">{_why_empty(view).capitalize()}.</div>'
    grid = "".join(f'<path class="grid" d="M0 {frame.down(t)}H{SIZE}"/>' for t in frame.y.ticks())
    drawn = "".join(
        (
            *(_shade(plot, curve, frame) for curve in curves),
            *(_raw(curve, frame) for curve in curves),
            *(_line(curve, frame) for curve in reversed(curves)),
            *(_broken_lines(curve, frame) for curve in curves),
        )
    )
    zoomed = " chart-zoomed" if frame.is_zoomed else ""
    return (
        f'<div class="chart-area{zoomed}" data-low="{frame.x.low:g}" '
        f'data-high="{frame.x.high:g}" data-format="{plot.format.__name__}" '
        f'data-curves="{html.escape(_pointer_values(curves))}">'
        f'<svg viewBox="0 0 {SIZE} {SIZE}" preserveAspectRatio="none" aria-hidden="true">'
        f"{_hatch(plot)}{grid}{drawn}</svg>{_labels(plot, frame)}"
        '<span class="axis-x">optimizer step</span></div>'
    )


def _labels(plot: Plot, frame: _Frame) -> str:
    y, x = frame.y, frame.x
    whole = [tick for tick in x.ticks() if tick == int(tick)]
    return "".join(
        (
            *(tick_label("tick-y", "top", 1 - y.place(t), plot.format(t)) for t in y.ticks()),
            *(tick_label("tick-x", "left", x.place(t), _step_name(t, x.high)) for t in whole),
        )
    )


def _step_name(step: float, last: float) -> str:
    """Return the label of a step, abbreviated in long runs."""
    if last < SHORT_FROM or step % 100:
        return f"{step:,.0f}"
    return f"{step / 1000:g}k" if step else "0"


def tick_label(kind: str, side: str, share: float, text: str) -> str:
    """Return a label positioned at a share of a chart's height or width."""
    return f'<span class="{kind}" style="{side}:{100 * share:.2f}%">{text}</span>'


def _hatch(plot: Plot) -> str:
    if plot.kind == "lines":
        return ""
    # Hatching distinguishes the area without colour.
    return (
        f'<defs><pattern id="hatch-{plot.name}" width="16" height="36" '
        'patternUnits="userSpaceOnUse"><path class="hatch" d="M0 36L16 0"/></pattern></defs>'
    )


def _shade(plot: Plot, curve: Curve, frame: _Frame) -> str:
    if curve.shade_to is None:
        return ""
    # On a logarithmic axis heights do not add up.
    if frame.y.is_log:
        return ""
    there = frame.places(curve.line)
    back = frame.places(curve.shade_to)[::-1]
    if not back:
        floor = frame.down(frame.y.low)
        first, last = curve.line[0][0], curve.line[-1][0]
        back = [f"{frame.across(last)} {floor}", f"{frame.across(first)} {floor}"]
    shape = f'd="M{"L".join([*there, *back])}Z"'
    plain = f'<path class="shade" fill="{curve.colour}" {shape}/>'
    if not curve.shade_to:
        return plain
    return f'{plain}<path class="hatched" fill="url(#hatch-{plot.name})" {shape}/>'


def _raw(curve: Curve, frame: _Frame) -> str:
    places = frame.places(curve.raw or [])
    if not places:
        return ""
    return f'<path class="curve-raw" stroke="{curve.colour}" d="M{"L".join(places)}"/>'


def _line(curve: Curve, frame: _Frame) -> str:
    places = frame.places(curve.line)
    if not places or curve.is_area:
        return ""
    kind = "curve curve-held-out" if curve.is_held_out else "curve"
    line = f'<path class="{kind}" stroke="{curve.colour}" d="M{"L".join(places)}"/>'
    # A line of zero length is a dot that keeps its shape when the SVG is stretched. Of a training
    # curve only the end has one: its shape identifies the curve.
    marked = places if curve.is_held_out else places[-1:]
    dots = "".join(f"M{place}h0" for place in marked)
    return f'{line}<path class="dots dots-{curve.mark}" stroke="{curve.colour}" d="{dots}"/>'


def _broken_lines(curve: Curve, frame: _Frame) -> str:
    return "".join(
        f'<path class="broken" d="M{frame.across(step)} 0V{SIZE}"/>'
        for step in curve.broken[:MOST_MARKS]
    )


def _frame(plot: Plot, curves: Sequence[Curve], last_step: int, view: ChartView) -> _Frame | None:
    """Return the axes, or None when there is nothing to show."""
    steps = [step for curve in curves for step, _ in curve.points]
    steps += [step for curve in curves for step in curve.broken]
    if not steps or not any(_reaches(curve, view) for curve in curves):
        return None
    end = max(1, last_step, *steps)
    x = Scale(0, end)
    if view.steps is not None:
        first, last = view.steps
        x = Scale(first, max(first + 1, min(last, end)))
    return _Frame(x, _value_scale(plot, curves, view), view.steps is not None)


def _reaches(curve: Curve, view: ChartView) -> bool:
    """Return whether a curve has anything within the chosen steps."""
    if view.steps is None:
        return True
    first, last = view.steps
    if any(first <= step <= last for step in curve.broken):
        return True
    return bool(curve.points) and curve.points[0][0] <= last and curve.points[-1][0] >= first


def _value_scale(plot: Plot, curves: Sequence[Curve], view: ChartView) -> Scale:
    if plot.limits:
        return Scale(*plot.limits)
    values = [
        value
        for curve in curves
        for points in (curve.points, curve.line, curve.raw or ())
        for _, value in points
    ]
    above = [value for value in values if value > 0]
    if view.is_log and plot.can_be_log and above:
        low, high = min(above), max(above)
        return Scale(low / 1.1, high * 1.1, is_log=True)
    low, high = min(values, default=0.0), max(values, default=1.0)
    if plot.kind == "stack" or (low >= 0 and low < (high - low)):
        low = min(low, 0.0)
    margin = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return Scale(low - (margin if low else 0.0), high + margin)


def _legend_entry(plot: Plot, curve: Curve) -> str:
    kind = "swatch swatch-held-out" if curve.is_held_out else "swatch"
    return (
        f'<li><span class="{kind} swatch-{curve.mark}" style="border-color:{curve.colour};'
        f'color:{curve.colour}"></span>'
        f"{html.escape(curve.label)} <b>{plot.format(curve.points[-1][1])}</b></li>"
    )


def _broken_entry(curves: Sequence[Curve]) -> str:
    found = [curve for curve in curves if curve.broken]
    return "".join(
        f'<li class="legend-broken"><span class="swatch-broken"></span>{html.escape(curve.label)} '
        f"is not a finite number at {_some_steps(curve.broken)}</li>"
        for curve in found
    )


def _some_steps(steps: Sequence[int]) -> str:
    named = ", ".join(f"{step:,}" for step in steps[:3])
    more = f" and {len(steps) - 3:,} more" if len(steps) > 3 else ""
    return f"step {named}{more}"


def _pointer_values(curves: Iterable[Curve]) -> str:
    entries = []
    for curve in curves:
        if curve.points:
            label, colour = json.dumps(curve.label, ensure_ascii=False), json.dumps(curve.colour)
            raw = f',"raw":{_short(curve.raw)}' if curve.raw else ""
            points = _short(curve.points)
            entries.append(f'{{"label":{label},"colour":{colour},"points":{points}{raw}}}')
    return f"[{','.join(entries)}]"


def _short(points: Points) -> str:
    """Return points as JSON, in a third of the time of `json.dumps`."""
    return f"[{','.join([f'[{step},{value:.{DIGITS}g}]' for step, value in points])}]"
