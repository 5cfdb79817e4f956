"""Results of a λ sweep: three small charts against λ and a sentence."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orpo_qlora.charts.lines import SIZE, tick_label
from orpo_qlora.charts.scales import Scale
from orpo_qlora.runs import present
from orpo_qlora.runs.intervals import Interval, wilson
from orpo_qlora.runs.present import setting_value
from orpo_qlora.runs.results import Measured
from orpo_qlora.ui.history.compare_view import Compared, accuracy_text


@dataclass(frozen=True)
class Outcome:
    """A quantity plotted against λ."""

    name: str
    title: str
    unit: str
    value: Callable[[Measured], float | None]
    format: Callable[[float], str] = present.number
    limits: tuple[float, float] | None = None


@dataclass(frozen=True)
class Dot:
    """One run in one chart."""

    lambda_: float
    value: float
    colour: str
    label: str
    interval: Interval | None = None


OUTCOMES = (
    Outcome(
        "accuracy",
        "Held-out accuracy",
        "share of pairs, 95 % interval",
        lambda found: found.value("rewards/accuracies"),
        present.percent,
        (0.0, 1.0),
    ),
    Outcome("gap", "Log-prob gap", "chosen − rejected, nats per token", lambda found: found.gap),
    Outcome(
        "chosen",
        "Chosen log-prob",
        "nats per token",
        lambda found: found.value("logps/chosen"),
    ),
)


def draw_sweep(several: Sequence[Compared]) -> str:
    """Return each outcome against λ; empty while fewer than two values of λ are measured."""
    measured = [(one, found) for one in several if (found := one.held_out) is not None]
    if len({one.run.config.lambda_ for one, _ in measured}) < 2:
        return ""
    drawn = "".join(_chart(outcome, measured) for outcome in OUTCOMES)
    text = html.escape(_result(measured))
    return (
        f'<div class="sweep"><p class="sweep-result" role="status">{text}</p>'
        f'<div class="plots">{drawn}</div></div>'
    )


def _result(measured: Sequence[tuple[Compared, Measured]]) -> str:
    """Return the λ with the highest held-out accuracy, and which intervals overlap with it."""
    known = [pair for pair in measured if pair[1].value("rewards/accuracies") is not None]
    if not known:
        return ""
    best, found = max(known, key=lambda pair: pair[1].value("rewards/accuracies") or 0.0)
    lambda_ = best.run.config.lambda_
    interval = _interval(found)
    overlapping = sorted(
        {
            one.run.config.lambda_
            for one, other in known
            if one.run.config.lambda_ != lambda_ and _interval(other).high >= interval.low
        }
    )
    best_text = f"Highest held-out accuracy so far: λ = {lambda_:g}, {accuracy_text(found)}."
    if not overlapping:
        return best_text
    others = ", ".join(f"{value:g}" for value in overlapping)
    return (
        f"{best_text} The intervals of λ = {others} overlap with it, so these pairs do not decide "
        "which is better; compare the log-probs too."
    )


def _interval(found: Measured) -> Interval:
    return wilson(found.value("rewards/accuracies") or 0.0, found.value("pairs") or 0)


def _chart(outcome: Outcome, measured: Sequence[tuple[Compared, Measured]]) -> str:
    dots = [
        Dot(
            one.run.config.lambda_,
            value,
            one.colour,
            one.label,
            _interval(found) if outcome.limits else None,
        )
        for one, found in measured
        if (value := outcome.value(found)) is not None
    ]
    if not dots:
        return ""
    spoken = "; ".join(f"λ {dot.lambda_:g}: {outcome.format(dot.value)}" for dot in dots)
    return (
        f'<figure class="chart card" data-sweep="{outcome.name}" role="group" '
        f'aria-label="{html.escape(f"{outcome.title}: {spoken}")}">'
        f'<figcaption class="chart-title">{outcome.title} <small>{outcome.unit}</small>'
        f"</figcaption>{_area(outcome, dots)}</figure>"
    )


def _area(outcome: Outcome, dots: Sequence[Dot]) -> str:
    lambdas = sorted({dot.lambda_ for dot in dots})
    # Evenly spaced: λ = 0 has no position on a logarithmic axis.
    places = {value: (index + 0.5) / len(lambdas) for index, value in enumerate(lambdas)}
    y = _scale(outcome, dots)
    labels = [tick_label("tick-y", "top", 1 - y.place(t), outcome.format(t)) for t in y.ticks()]
    labels += [tick_label("tick-x", "left", at, setting_value(v)) for v, at in places.items()]
    grid = "".join(f'<path class="grid" d="M0 {_down(y, t)}H{SIZE}"/>' for t in y.ticks())
    drawn = "".join(_dot(dot, places[dot.lambda_] * SIZE, y) for dot in dots)
    return (
        f'<div class="chart-area"><svg viewBox="0 0 {SIZE} {SIZE}" preserveAspectRatio="none" '
        f'aria-hidden="true">{grid}{drawn}</svg>{"".join(labels)}'
        '<span class="axis-x">λ</span></div>'
    )


def _scale(outcome: Outcome, dots: Sequence[Dot]) -> Scale:
    if outcome.limits:
        return Scale(*outcome.limits)
    values = [dot.value for dot in dots]
    low, high = min(values), max(values)
    margin = (high - low) * 0.15 or abs(high) * 0.1 or 1.0
    return Scale(low - margin, high + margin)


def _dot(dot: Dot, x: float, y: Scale) -> str:
    title = html.escape(f"{dot.label}: {dot.value:.3g}")
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
