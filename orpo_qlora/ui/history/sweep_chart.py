"""Results of a sweep: small charts against the setting that is varied, and a sentence."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from orpo_qlora.charts.lines import SIZE, tick_label
from orpo_qlora.charts.scales import Scale
from orpo_qlora.evaluation.comparison import Comparison, Entry, result_sentence
from orpo_qlora.runs import present
from orpo_qlora.runs.curves.intervals import Interval
from orpo_qlora.runs.curves.metrics import ACCURACY
from orpo_qlora.runs.differences import order_key, title_of, value_of
from orpo_qlora.runs.present import setting_value

DODGE = 0.5
"""Share of a value's width over which the runs with different second settings are spread."""


@dataclass(frozen=True)
class Outcome:
    """A quantity plotted against the varied setting."""

    name: str
    title: str
    unit: str
    value: Callable[[Entry], float | None]
    format: Callable[[float], str] = present.number
    limits: tuple[float, float] | None = None


@dataclass(frozen=True)
class Dot:
    """One run in one chart."""

    place: float
    """Where along the axis, 0 to 1."""
    value: float
    colour: str
    label: str
    interval: Interval | None = None


OUTCOMES = (
    Outcome(
        "accuracy",
        "Held-out accuracy",
        "95 % interval",
        lambda one: one.value(ACCURACY),
        present.percent,
        (0.0, 1.0),
    ),
    Outcome("gap", "Log-prob gap", "nats per token", lambda one: one.gap),
    Outcome("chosen", "Chosen log-prob", "nats per token", lambda one: one.value("logps/chosen")),
    Outcome("kl_base", "Drift from the base", "KL, nats per token", lambda one: one.kl_base),
)


def draw_sweep(found: Comparison, colours: Mapping[str, str]) -> str:
    """Return each outcome against the first varied setting, and which run is best.

    Empty where more than two settings differ, or while fewer than two values are measured.

    Args:
        found: the runs.
        colours: of the runs by id.
    """
    measured = [one for one in found.entries if one.held_out is not None]
    if not 1 <= len(found.settings) <= 2 or len({_at(found, one) for one in measured}) < 2:
        return ""
    places = _places(found, measured)
    charts = (
        _chart(outcome, found, [_dot(outcome, one, places, colours) for one in measured])
        for outcome in OUTCOMES
    )
    text = html.escape(result_sentence(found))
    return (
        f'<div class="sweep"><p class="sweep-result" role="status">{text}</p>'
        f'<div class="plots">{"".join(charts)}</div></div>'
    )


def _at(found: Comparison, one: Entry) -> str:
    return setting_value(value_of(one.run.config, found.settings[0]))


def _ticks(found: Comparison) -> list[str]:
    """Return the values of the first setting that are on the axis, in order."""
    return list(dict.fromkeys(_at(found, one) for one in found.entries if one.held_out is not None))


def _places(found: Comparison, measured: Sequence[Entry]) -> dict[str, float]:
    """Return where each run is, by id; those of one value are side by side.

    Evenly spaced: λ = 0 has no position on a logarithmic axis.
    """
    ticks = _ticks(found)
    rest = found.settings[1:]
    seconds = sorted({order_key(one.run.config, rest) for one in measured})
    places = {}
    for one in measured:
        beside = (seconds.index(order_key(one.run.config, rest)) + 0.5) / len(seconds) - 0.5
        places[one.run.id] = (ticks.index(_at(found, one)) + 0.5 + DODGE * beside) / len(ticks)
    return places


def _dot(
    outcome: Outcome, one: Entry, places: Mapping[str, float], colours: Mapping[str, str]
) -> Dot | None:
    value = outcome.value(one)
    if value is None:
        return None
    interval = one.accuracy if outcome.limits else None
    return Dot(places[one.run.id], value, colours[one.run.id], one.label, interval)


def _chart(outcome: Outcome, found: Comparison, dots: Sequence[Dot | None]) -> str:
    drawn = [dot for dot in dots if dot is not None]
    if not drawn:
        return ""
    spoken = "; ".join(f"{dot.label}: {outcome.format(dot.value)}" for dot in drawn)
    return (
        f'<figure class="chart card" data-sweep="{outcome.name}" role="group" '
        f'aria-label="{html.escape(f"{outcome.title}: {spoken}")}">'
        f'<figcaption class="chart-title">{outcome.title} <small>{outcome.unit}</small>'
        f"</figcaption>{_area(outcome, found, drawn)}</figure>"
    )


def _area(outcome: Outcome, found: Comparison, dots: Sequence[Dot]) -> str:
    ticks, y = _ticks(found), _scale(outcome, dots)
    labels = [tick_label("tick-y", "top", 1 - y.place(t), outcome.format(t)) for t in y.ticks()]
    labels += [
        tick_label("tick-x", "left", (at + 0.5) / len(ticks), html.escape(text))
        for at, text in enumerate(ticks)
    ]
    grid = "".join(f'<path class="grid" d="M0 {_down(y, t)}H{SIZE}"/>' for t in y.ticks())
    drawn = "".join(_drawn(dot, y) for dot in dots)
    axis = html.escape(title_of(found.settings[0]))
    return (
        f'<div class="chart-area"><svg viewBox="0 0 {SIZE} {SIZE}" preserveAspectRatio="none" '
        f'aria-hidden="true">{grid}{drawn}</svg>{"".join(labels)}'
        f'<span class="axis-x">{axis}</span></div>'
    )


def _scale(outcome: Outcome, dots: Sequence[Dot]) -> Scale:
    if outcome.limits:
        return Scale(*outcome.limits)
    values = [dot.value for dot in dots]
    low, high = min(values), max(values)
    margin = (high - low) * 0.15 or abs(high) * 0.1 or 1.0
    return Scale(low - margin, high + margin)


def _drawn(dot: Dot, y: Scale) -> str:
    title, x = html.escape(f"{dot.label}: {dot.value:.3g}"), dot.place * SIZE
    whisker = ""
    if dot.interval:
        ends = f"M{x:.1f} {_down(y, dot.interval.low)}V{_down(y, dot.interval.high)}"
        whisker = f'<path class="curve" style="stroke:{dot.colour}" d="{ends}"/>'
    # A line of zero length with round ends is a dot that stays round when stretched.
    place = f"M{x:.1f} {_down(y, dot.value)}h0"
    return (
        f'{whisker}<path class="dots" style="stroke:{dot.colour}" d="{place}">'
        f"<title>{title}</title></path>"
    )


def _down(y: Scale, value: float) -> str:
    return f"{SIZE - SIZE * y.place(value):.1f}"
