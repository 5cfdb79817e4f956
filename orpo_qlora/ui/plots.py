"""Runs to plots: which metrics belong together, in which colours, and their points. Floor 5."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orpo_qlora.runs.metrics import MetricsTail
from orpo_qlora.ui import present
from orpo_qlora.ui.cards import Tile

MOST_POINTS = 500
"""Points drawn per curve; more cannot be told apart on a screen and cost time on every poll."""

Points = list[tuple[int, float]]

# Three hues that stay apart for colour-blind eyes, each with a contrast of 3 to 1 or more on the
# light and on the dark page. Held-out pairs have the hue of training pairs, but dashes and dots.
BLUE, ORANGE, GREEN = "#2f80d0", "#d4691e", "#15967a"


@dataclass(frozen=True)
class Quantity:
    """One metric, drawn twice: on training and on held-out pairs."""

    metric: str
    label: str
    colour: str
    has_lambda: bool = False
    """Whether it is multiplied by λ, so that the parts of the loss add up."""


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


@dataclass(frozen=True)
class Curve:
    """The points of one quantity on one side of the data, ready to be drawn."""

    label: str
    colour: str
    is_held_out: bool
    points: Points


PLOTS = (
    Plot(
        "loss",
        "Loss and its parts",
        "nats",
        "falls, and the held-out loss falls with it",
        (
            Quantity("loss", "loss", BLUE),
            Quantity("nll_loss", "NLL", GREEN),
            Quantity("or_loss", "λ·OR", ORANGE, has_lambda=True),
        ),
    ),
    Plot(
        "logps",
        "Log-prob of the answers",
        "nats per token",
        "chosen rises, rejected stays below",
        (Quantity("logps/chosen", "chosen", BLUE), Quantity("logps/rejected", "rejected", ORANGE)),
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
)
HEADLINES = ("loss", "margin", "accuracy")


def curves_of(plot: Plot, metrics: MetricsTail, lambda_: float) -> list[Curve]:
    """Return every curve of a plot that has points."""
    curves = []
    for quantity in plot.quantities:
        factor = lambda_ if quantity.has_lambda else 1.0
        for held_out, label in ((False, quantity.label), (True, f"{quantity.label}, held-out")):
            points = metrics.series(quantity.metric, held_out=held_out)
            scaled = [(step, factor * value) for step, value in points]
            if scaled:
                curves.append(Curve(label, quantity.colour, held_out, thinned(scaled)))
    return curves


def thinned(points: Sequence[tuple[int, float]], most: int = MOST_POINTS) -> Points:
    """Return at most `most` points; the lowest and the highest of each stretch stay."""
    if len(points) <= most:
        return list(points)
    stretches = most // 2 - 1
    kept = [points[0]]
    inner = points[1:-1]
    for index in range(stretches):
        first, last = (len(inner) * (index + edge) // stretches for edge in (0, 1))
        stretch = inner[first:last]
        extremes = {
            min(stretch, key=lambda point: point[1]),
            max(stretch, key=lambda point: point[1]),
        }
        kept.extend(sorted(extremes))
    return [*kept, points[-1]]


def headline_tiles(metrics: MetricsTail) -> list[Tile]:
    """Return the headline numbers, on held-out pairs where there are any."""
    tiles = []
    for plot in PLOTS:
        quantity = plot.quantities[0]
        held_out = metrics.series(quantity.metric, held_out=True)
        points = held_out or metrics.series(quantity.metric)
        if plot.name in HEADLINES and points:
            side = "held-out" if held_out else "training"
            title = f"{quantity.label[:1].upper()}{quantity.label[1:]}, {side}"
            before = plot.format(points[0][1]) if len(points) > 1 else ""
            tiles.append(Tile(title, before, plot.format(points[-1][1]), plot.good))
    return tiles
