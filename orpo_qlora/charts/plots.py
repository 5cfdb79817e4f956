"""The plots of a run: which metrics share axes, their colours and their points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from orpo_qlora.charts.view import ChartView
from orpo_qlora.config import TrainConfig
from orpo_qlora.methods import method_of
from orpo_qlora.runs import present
from orpo_qlora.runs.curves.metrics import ACCURACY, TOKENS_PER_SECOND, Metrics
from orpo_qlora.runs.curves.series import Course, Point

Points = list[Point]

# Three hues distinct for colour-blind readers, each with a contrast of at least 3:1 on the light
# and on the dark page. Held-out curves have the hue of training curves, dashed and with dots.
BLUE, ORANGE, GREEN = "#2f80d0", "#d4691e", "#15967a"
AS_MEASURED = ChartView(smoothing=0.0)
STACKED = 3
"""Curves of a stack: the loss and two components."""


@dataclass(frozen=True)
class Quantity:
    """One metric, drawn as two curves: training and held-out pairs."""

    metric: str
    label: str
    colour: str
    factor: float = 1.0
    """Conversion into the plot's unit, or a component's weight in the loss."""
    mark: Literal["round", "square"] = "round"
    """Shape of its dots, which identifies the second curve without colour."""


@dataclass(frozen=True)
class Plot:
    """Quantities that share their axes."""

    name: str
    title: str
    unit: str
    good: str
    """Description of a healthy curve."""
    quantities: tuple[Quantity, ...]
    format: Callable[[float], str] = present.number
    limits: tuple[float, float] | None = None
    """Ends of the value axis; None follows the data."""
    kind: Literal["lines", "stack", "band"] = "lines"
    """Lines; a loss with its components, stacked below it; or the area between two lines."""
    can_be_log: bool = False
    """Whether a logarithmic axis makes sense: the values are positive."""


@dataclass(frozen=True)
class Curve:
    """The points of one quantity on training or on held-out pairs."""

    label: str
    colour: str
    is_held_out: bool
    points: Points
    raw: Points | None = None
    """Raw values, drawn faint, where `points` are smoothed."""
    mark: Literal["round", "square"] = "round"
    outline: Points | None = None
    """Upper edge of its area, where that differs from its values: on top of a stack."""
    is_area: bool = False
    """Whether only its area is drawn, without a line."""
    shade_to: Points | None = None
    """Lower edge of its area; empty for 0, None for no area."""
    broken: tuple[int, ...] = ()
    """Steps at which the value was not a finite number."""

    @property
    def line(self) -> Points:
        """Where its line runs."""
        return self.points if self.outline is None else self.outline


PLOTS = (
    Plot(
        "loss",
        "Loss and its components",
        "nats",
        "falls, on training and on held-out pairs",
        (Quantity("loss", "loss", BLUE),),
        kind="stack",
        can_be_log=True,
    ),
    Plot(
        "logps",
        "Log-probs",
        "nats per token",
        "chosen rises, rejected stays below; the shaded gap is their difference",
        (
            Quantity("logps/chosen", "chosen", BLUE),
            Quantity("logps/rejected", "rejected", ORANGE, mark="square"),
        ),
        kind="band",
    ),
    Plot(
        "margin",
        "Reward margin",
        "nats",
        "grows above 0",
        (Quantity("rewards/margins", "margin", BLUE),),
    ),
    Plot(
        "accuracy",
        "Preference accuracy",
        "share of pairs",
        "rises towards 100 %",
        (Quantity(ACCURACY, "accuracy", BLUE),),
        present.percent,
        (0.0, 1.0),
    ),
    Plot(
        "odds",
        "Log odds ratio",
        "nats",
        "grows above 0",
        (Quantity("log_odds_ratio", "log odds ratio", BLUE),),
    ),
    Plot(
        "rate",
        "Learning rate",
        "",
        "follows the schedule",
        (Quantity("learning_rate", "learning rate", GREEN),),
        present.scientific,
        can_be_log=True,
    ),
    Plot(
        "gradient",
        "Gradient norm",
        "before clipping",
        "stays in one range, without spikes that grow",
        (Quantity("grad_norm", "gradient norm", GREEN),),
        can_be_log=True,
    ),
    Plot(
        "throughput",
        "Throughput",
        "tokens per second",
        "is flat",
        (Quantity(TOKENS_PER_SECOND, "tokens/s", GREEN),),
    ),
    Plot(
        "memory",
        "Peak memory",
        "GB",
        "is flat after the first steps",
        (
            Quantity("peak_memory_bytes", "peak memory", GREEN, factor=1e-9),
            Quantity("reserved_memory_bytes", "reserved", ORANGE, factor=1e-9, mark="square"),
        ),
    ),
)
MAIN = ("loss", "logps", "margin", "accuracy")
"""The plots that are always shown; the others are in a collapsed section."""
ENDED_BY = ("loss", "gradient")
"""Plots that mark the step whose loss or gradient was not finite; such a step is not logged."""
HEADLINES = ("loss", "margin", "accuracy")
SCHEDULED = {"learning_rate", "peak_memory_bytes", "reserved_memory_bytes"}
"""Quantities without noise: smoothing would only delay them."""


def quantities_of(plot: Plot, config: TrainConfig) -> tuple[Quantity, ...]:
    """Return what a plot shows of a run: of its loss also the components, if there are two."""
    parts = method_of(config).parts(config)
    if plot.kind != "stack" or len(parts) < 2:
        return plot.quantities
    lower, upper = parts
    return (
        *plot.quantities,
        Quantity(lower.metric, lower.label, GREEN, lower.weight),
        Quantity(upper.metric, upper.label, ORANGE, upper.weight, mark="square"),
    )


def curves_of(
    plot: Plot, metrics: Metrics, config: TrainConfig, view: ChartView = AS_MEASURED
) -> list[Curve]:
    """Return every curve of a plot that has points, training pairs first."""
    quantities = quantities_of(plot, config)
    curves = []
    for held_out in (False, True):
        side = [_curve(quantity, metrics, view, held_out=held_out) for quantity in quantities]
        if len(side) == STACKED and plot.kind == "stack" and all(curve.points for curve in side):
            side = _stacked(*side)
        found = [curve for curve in side if curve.points or curve.broken]
        if plot.kind == "band" and len(found) > 1 and not held_out:
            found[0] = replace(found[0], shade_to=found[1].points)
        curves += found
    return curves


def marked(curves: list[Curve], step: int) -> list[Curve]:
    """Return the curves, the first one marking the step that ended the run."""
    return [
        replace(curve, broken=(*curve.broken, step)) if index == 0 else curve
        for index, curve in enumerate(curves)
    ]


def _curve(quantity: Quantity, metrics: Metrics, view: ChartView, *, held_out: bool) -> Curve:
    # Held-out pairs are the same at each evaluation: there is no sampling noise to smooth.
    is_smooth = view.smoothing > 0 and not held_out and quantity.metric not in SCHEDULED
    smoothing = view.smoothing if is_smooth else 0.0
    course = metrics.course(quantity.metric, held_out=held_out, smoothing=smoothing)
    raw = metrics.course(quantity.metric, held_out=held_out) if is_smooth else None
    return Curve(
        f"{quantity.label}, held-out" if held_out else quantity.label,
        quantity.colour,
        held_out,
        _drawn(course, quantity.factor, view),
        _drawn(raw, quantity.factor, view) if raw is not None else None,
        quantity.mark,
        broken=_inside(metrics.broken(quantity.metric, held_out=held_out), view),
    )


def _drawn(course: Course, factor: float, view: ChartView) -> Points:
    shown = course.within(*view.steps) if view.steps else course
    return shown.thinned().scaled(factor).points()


def _inside(steps: list[int], view: ChartView) -> tuple[int, ...]:
    first, last = view.steps or (min(steps, default=0), max(steps, default=0))
    return tuple(step for step in steps if first <= step <= last)


def _stacked(total: Curve, lower: Curve, upper: Curve) -> list[Curve]:
    """Return a total and its components; the upper one is the area between lower and total."""
    area = replace(upper, raw=None, outline=total.points, is_area=True)
    if total.is_held_out:
        return [total, lower, area]
    return [
        total,
        replace(lower, raw=None, shade_to=[]),
        replace(area, shade_to=lower.points),
    ]
