"""Runs to plots: which metrics belong together, in which colours, and their points. Floor 5."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from orpo_qlora.charts.view import ChartView
from orpo_qlora.runs import present
from orpo_qlora.runs.metrics import TOKENS_PER_SECOND, Metrics
from orpo_qlora.runs.series import Course, Point

Points = list[Point]

# Three hues that stay apart for colour-blind eyes, each with a contrast of 3 to 1 or more on the
# light and on the dark page. Held-out pairs have the hue of training pairs, but dashes and dots.
BLUE, ORANGE, GREEN = "#2f80d0", "#d4691e", "#15967a"
AS_MEASURED = ChartView(smoothing=0.0)


@dataclass(frozen=True)
class Quantity:
    """One metric, drawn twice: on training and on held-out pairs."""

    metric: str
    label: str
    colour: str
    has_lambda: bool = False
    """Whether it is multiplied by λ, so that the parts of the loss add up."""
    factor: float = 1.0
    """What it is multiplied by to be in the plot's unit."""
    mark: Literal["round", "square"] = "round"
    """Shape of its dots: the second curve of a plot is known without its colour."""


@dataclass(frozen=True)
class Plot:
    """Quantities that share their axes."""

    name: str
    title: str
    unit: str
    good: str
    """What a good course looks like."""
    quantities: tuple[Quantity, ...]
    format: Callable[[float], str] = present.number
    limits: tuple[float, float] | None = None
    """Ends of the value axis; None follows the data."""
    kind: Literal["lines", "stack", "band"] = "lines"
    """Lines; the second quantity stacked on the first; or the stretch between the two shaded."""
    can_be_log: bool = False
    """Whether its values are above 0."""


@dataclass(frozen=True)
class Curve:
    """The points of one quantity on one side of the data, ready to be drawn."""

    label: str
    colour: str
    is_held_out: bool
    points: Points
    raw: Points | None = None
    """The points as they were measured, drawn faintly, where `points` are smoothed."""
    mark: Literal["round", "square"] = "round"
    outline: Points | None = None
    """Where its line runs when that is not at its values: on top of what it is stacked on."""
    shade_to: Points | None = None
    """The line to which the plane is shaded; empty for down to 0."""
    broken: tuple[int, ...] = ()
    """Steps at which the value was not a finite number."""

    @property
    def line(self) -> Points:
        """Where its line runs."""
        return self.points if self.outline is None else self.outline


PLOTS = (
    Plot(
        "loss",
        "Loss",
        "nats",
        "falls, and the held-out loss falls with it",
        (Quantity("loss", "loss", BLUE),),
        can_be_log=True,
    ),
    Plot(
        "parts",
        "Its parts, stacked",
        "nats",
        "both parts can be seen, and both get smaller",
        (
            Quantity("nll_loss", "NLL", GREEN),
            Quantity("or_loss", "λ·OR", ORANGE, has_lambda=True, mark="square"),
        ),
        kind="stack",
    ),
    Plot(
        "logps",
        "Log-prob of the answers",
        "nats per token",
        "chosen rises, rejected stays below; the gap is shaded",
        (
            Quantity("logps/chosen", "chosen", BLUE),
            Quantity("logps/rejected", "rejected", ORANGE, mark="square"),
        ),
        kind="band",
    ),
    Plot(
        "odds",
        "Log odds ratio",
        "nats",
        "grows above 0",
        (Quantity("log_odds_ratio", "log odds ratio", BLUE),),
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
        (Quantity("rewards/accuracies", "accuracy", BLUE),),
        present.percent,
        (0.0, 1.0),
    ),
    Plot(
        "rate",
        "Learning rate",
        "",
        "warms up, then falls as the schedule says",
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
        "pace",
        "Pace",
        "tokens per second",
        "stays level",
        (Quantity(TOKENS_PER_SECOND, "tokens/s", GREEN),),
    ),
    Plot(
        "memory",
        "Peak memory",
        "GB",
        "stays level after the first steps",
        (Quantity("peak_memory_bytes", "peak memory", GREEN, factor=1e-9),),
    ),
)
ENDED_BY = ("loss", "gradient")
"""Plots that mark the step whose loss or gradient was not finite; such a step is not logged."""
HEADLINES = ("loss", "margin", "accuracy")
SCHEDULED = {"learning_rate", "peak_memory_bytes"}
"""Quantities without noise: smoothing would only make them lag behind."""


def curves_of(
    plot: Plot, metrics: Metrics, lambda_: float, view: ChartView = AS_MEASURED
) -> list[Curve]:
    """Return every curve of a plot that has points, training pairs first."""
    curves = []
    for held_out in (False, True):
        side = [
            _curve(quantity, metrics, (lambda_, held_out), view) for quantity in plot.quantities
        ]
        found = [curve for curve in side if curve.points or curve.broken]
        if plot.kind == "stack":
            found = _stacked(found, _points("loss", metrics, held_out, view))
        elif plot.kind == "band" and len(found) > 1 and not held_out:
            found[0] = replace(found[0], shade_to=found[1].points)
        curves += found
    return curves


def marked(curves: list[Curve], step: int) -> list[Curve]:
    """Return curves of which the first also shows that a step ended the run."""
    return [
        replace(curve, broken=(*curve.broken, step)) if index == 0 else curve
        for index, curve in enumerate(curves)
    ]


def _curve(
    quantity: Quantity, metrics: Metrics, side: tuple[float, bool], view: ChartView
) -> Curve:
    lambda_, held_out = side
    factor = quantity.factor * (lambda_ if quantity.has_lambda else 1.0)
    # Held-out pairs are the same each time: there is no noise of the draw to smooth away.
    is_smooth = view.smoothing > 0 and not held_out and quantity.metric not in SCHEDULED
    smoothing = view.smoothing if is_smooth else 0.0
    course = metrics.course(quantity.metric, held_out=held_out, smoothing=smoothing)
    raw = metrics.course(quantity.metric, held_out=held_out) if is_smooth else None
    return Curve(
        f"{quantity.label}, held-out" if held_out else quantity.label,
        quantity.colour,
        held_out,
        _drawn(course, factor, view),
        _drawn(raw, factor, view) if raw is not None else None,
        quantity.mark,
        broken=_inside(metrics.broken(quantity.metric, held_out=held_out), view),
    )


def _points(name: str, metrics: Metrics, held_out: bool, view: ChartView) -> Points:
    smoothing = 0.0 if held_out else view.smoothing
    return _drawn(metrics.course(name, held_out=held_out, smoothing=smoothing), 1.0, view)


def _drawn(course: Course, factor: float, view: ChartView) -> Points:
    shown = course.within(*view.steps) if view.steps else course
    return shown.thinned().scaled(factor).points()


def _inside(steps: list[int], view: ChartView) -> tuple[int, ...]:
    first, last = view.steps or (min(steps, default=0), max(steps, default=0))
    return tuple(step for step in steps if first <= step <= last)


def _stacked(curves: list[Curve], loss: Points) -> list[Curve]:
    """Return the parts of the loss one above the other; together they are the loss."""
    if not curves:
        return []
    lowest, upper = curves[0], [replace(curve, outline=loss, raw=None) for curve in curves[1:]]
    if lowest.is_held_out:
        return [lowest, *upper]
    shaded = [replace(curve, shade_to=lowest.points) for curve in upper]
    return [replace(lowest, raw=None, shade_to=[]), *shaded]
