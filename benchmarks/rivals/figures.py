"""The pictures of the study: the paper's figures 3, 6 and 7, and its appendix E, as SVG."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path

from benchmarks.rivals import study
from benchmarks.rivals.results import (
    Mean,
    PairLogps,
    Point,
    Quantity,
    Study,
    log_odds,
    mean_of,
)
from benchmarks.rivals.svg import Panel, picture
from orpo_qlora.charts.bars import Bins
from orpo_qlora.charts.plots import BLUE, GREEN, ORANGE
from orpo_qlora.charts.scales import Scale

PURPLE, RED = "#7b52b9", "#b3382c"
COLOURS = dict(zip(study.VARIANTS, (ORANGE, "#8bbbe8", BLUE, "#174f87", GREEN), strict=True))
SAMPLES = 50_000
SAMPLE_SEED = 0
WIDE = Bins(-16, 0.5, 32)
"""Of the sampled ratios, −8 to 8."""
NARROW = Bins(-10, 0.5, 20)
"""Of the measured ratios, −5 to 5; the outer bars count those beyond."""
STEP_AXIS = "optimizer step"
Curves = dict[str, list[Point]]


def chosen(pairs: PairLogps) -> float:
    """Return the mean log-prob of the chosen responses."""
    return sum(pairs.chosen) / len(pairs.chosen)


def rejected(pairs: PairLogps) -> float:
    """Return the mean log-prob of the rejected responses."""
    return sum(pairs.rejected) / len(pairs.rejected)


def odds_ratio(pairs: PairLogps) -> float:
    """Return the mean log odds ratio."""
    return sum(pairs.odds_ratios) / len(pairs.odds_ratios)


def gap(pairs: PairLogps) -> float:
    """Return the mean log-prob of chosen minus that of rejected responses."""
    return chosen(pairs) - rejected(pairs)


def accuracy(pairs: PairLogps) -> float:
    """Return the share of pairs whose chosen response is more likely."""
    return pairs.accuracy


def draw_all(found: Study, folder: Path) -> None:
    """Write every picture that the results suffice for."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (
        ("figure-3", figure_3(found)),
        ("figure-6-sampled", figure_6_sampled()),
        ("figure-6-measured", figure_6_measured(found)),
        ("figure-7", figure_7(found)),
        ("lambda", appendix_e(found)),
    ):
        (folder / f"rivals-{name}.svg").write_text(text, encoding="utf-8")


def figure_3(found: Study) -> str:
    """Log-probs of both responses under SFT and under ORPO, on one scale."""
    names = [study.SFT.name, *(one.name for one in study.ORPO[::2])]
    sides = {name: (found.curve(name, chosen), found.curve(name, rejected)) for name in names}
    y = _scale([curve for both in sides.values() for curve in both])
    panels = []
    for name, (upper, lower) in sides.items():
        panel = Panel(f"{name}, nats per token", STEP_AXIS, Scale(0, study.STEPS), y)
        panel.line(upper, BLUE)
        panel.line(lower, ORANGE, is_dashed=True)
        panels.append(panel)
    legend = [("chosen, held-out", BLUE), ("rejected, held-out", ORANGE)]
    return picture("Log-probs of held-out responses under SFT and ORPO", panels, legend)


def figure_7(found: Study) -> str:
    """Log odds ratio and rejected log-prob under every variant."""
    titles = (
        ("Log odds ratio, nats", odds_ratio),
        ("Chosen log-prob, nats per token", chosen),
        ("Rejected log-prob, nats per token", rejected),
    )
    panels = [_over_steps(title, _curves(found, quantity)) for title, quantity in titles]
    legend = [(name, COLOURS[name]) for name in study.VARIANTS if found.of(name)]
    return picture("Log odds ratio and log-probs of held-out pairs", panels, legend)


def _curves(found: Study, quantity: Quantity) -> Curves:
    return {name: found.curve(name, quantity) for name in study.VARIANTS if found.of(name)}


def _over_steps(title: str, curves: Curves) -> Panel:
    panel = Panel(title, STEP_AXIS, Scale(0, study.STEPS), _scale([*curves.values()]))
    for name, points in curves.items():
        panel.line(points, COLOURS[name])
    return panel


def _scale(curves: Sequence[Sequence[Point]]) -> Scale:
    means = [point.mean for curve in curves for point in curve]
    return _scale_of(means)


def _scale_of(means: Sequence[Mean]) -> Scale:
    low, high = min(one.low for one in means), max(one.high for one in means)
    margin = (high - low) * 0.06 or 0.1
    return Scale(low - margin, high + margin)


def appendix_e(found: Study) -> str:
    """What λ does after the last step; λ = 0 is SFT."""
    names = [study.SFT.name, *(one.name for one in study.ORPO)]
    ticks = [(at, label) for at, label in enumerate(["0", *(f"{x:g}" for x in study.LAMBDAS)])]
    panels = []
    for title, quantity in (
        ("Log odds ratio, nats", odds_ratio),
        ("Chosen log-prob, nats per token", chosen),
        ("Rejected log-prob, nats per token", rejected),
    ):
        values = [[quantity(run.held_out[study.STEPS]) for run in found.of(name)] for name in names]
        means = [mean_of(some) for some in values]
        panel = Panel(title, "λ", Scale(-0.5, len(names) - 0.5), _scale_of(means), ticks)
        for at, (name, mean) in enumerate(zip(names, means, strict=True)):
            panel.whisker(at, mean, values[at], COLOURS[name])
        panels.append(panel)
    return picture(f"Held-out pairs after {study.STEPS} steps by λ", panels, [])


def sampled_ratios() -> tuple[list[float], list[float]]:
    """Return log probability ratios and log odds ratios of uniform pairs of probabilities."""
    source = random.Random(SAMPLE_SEED)
    # In (0, 1]: the log of 0 does not exist, and 1 has no odds.
    pairs = [(math.log(1 - source.random()), math.log(1 - source.random())) for _ in range(SAMPLES)]
    pairs = [(a, b) for a, b in pairs if a < 0 and b < 0]
    return [a - b for a, b in pairs], [log_odds(a) - log_odds(b) for a, b in pairs]


def ratio_density(z: float) -> float:
    """Return the density of the log ratio of two uniform probabilities: Laplace's."""
    return 0.5 * math.exp(-abs(z))


def odds_ratio_density(z: float) -> float:
    """Return the density of the difference of two standard logistic values, at z."""
    if abs(z) < 1e-2:
        return 1 / 6 - z * z / 60
    grown = math.expm1(z)
    return math.exp(z) * ((z - 2) * math.exp(z) + z + 2) / grown**3


def figure_6_sampled() -> str:
    """Both ratios of probabilities drawn uniformly, with their exact densities."""
    x = Scale(WIDE.low, WIDE.high)
    panels = []
    for title, values, density, colour in zip(
        ("Log probability ratio", "Log odds ratio"),
        sampled_ratios(),
        (ratio_density, odds_ratio_density),
        (PURPLE, RED),
        strict=True,
    ):
        panel = Panel(f"{title}, share of samples", "nats", x, Scale(0, 0.26))
        panel.bars(WIDE, values, colour)
        places = [WIDE.low + at * 0.05 for at in range(round((WIDE.high - WIDE.low) / 0.05) + 1)]
        panel.curve([(z, density(z) * WIDE.width) for z in places], colour)
        panels.append(panel)
    legend = [("log probability ratio", PURPLE), ("log odds ratio", RED)]
    return picture("Sampled distributions of both ratios", panels, legend)


def figure_6_measured(found: Study) -> str:
    """Both ratios of the demo model's pairs: the base on all, tuned models on held-out ones."""
    assert found.base is not None
    strongest = study.ORPO[-1].name
    tuned = [run.held_out[study.STEPS] for run in found.of(strongest)]
    panels = []
    for title, sides in (
        ("Base, all pairs", [found.base]),
        ("Base, held-out pairs", [found.held_out_base]),
        (f"{strongest}, held-out pairs", tuned),
    ):
        panel = Panel(title, "nats", Scale(NARROW.low, NARROW.high), Scale(0, 0.35))
        panel.bars(NARROW, [z for side in sides for z in side.ratios], PURPLE)
        panel.bars(NARROW, [z for side in sides for z in side.odds_ratios], RED)
        panels.append(panel)
    legend = [("log probability ratio", PURPLE), ("log odds ratio", RED)]
    return picture("Measured distributions of both ratios", panels, legend)
