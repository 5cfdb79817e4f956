"""The study's numbers between the marks of docs/orpo-and-its-rivals.md, and its pictures."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks import method_tables
from benchmarks.rivals import figures, study
from benchmarks.rivals.results import Mean, PairLogps, Quantity, Study, mean_of
from orpo_qlora.evaluation.statistics import Values, mean_interval
from orpo_qlora.runs.curves.intervals import Interval

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "orpo-and-its-rivals.md"
IMAGES = ROOT / "docs" / "images"
BASE = ""
"""In place of a variant: the base, which has no training."""
COSTS = ROOT / "benchmarks" / "results" / "methods.json"


def write(found: Study) -> None:
    """Draw the pictures and fill the page's tables."""
    found = comparable(found)
    figures.draw_all(found, IMAGES)
    text = PAGE.read_text(encoding="utf-8")
    parts = {
        "setup": setup(found),
        "figure-3": changes_table(found),
        "figure-6": distributions_table(found),
        "figure-7": results_table(found),
        "costs": costs(COSTS),
    }
    for name, part in parts.items():
        text = filled(text, name, part)
    PAGE.write_text(text, encoding="utf-8")


def comparable(found: Study) -> Study:
    """Return the trainings that have the same seeds: those of SFT and every λ, DPO if it has them.

    An interrupted study lacks some.
    """
    needed = [study.SFT.name, *(one.name for one in study.ORPO)]
    seeds = {seed for seed in study.SEEDS if all(found.has(name, seed) for name in needed)}
    names = {*needed}
    if all(found.has(study.DPO.name, seed) for seed in seeds):
        names.add(study.DPO.name)
    kept = [one for one in found.trainings if one.variant in names and one.seed in seeds]
    return replace(found, trainings=kept)


def filled(text: str, name: str, part: str) -> str:
    """Return a page with the text between `<!-- name -->` and `<!-- /name -->` replaced.

    Raises:
        ValueError: the page lacks a mark.
    """
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    head, opening, rest = text.partition(start)
    _, closing, tail = rest.partition(end)
    if not opening or not closing:
        raise ValueError(f"the page has no place for “{name}”")
    return f"{head}{start}\n\n{part.strip()}\n\n{end}{tail}"


def setup(found: Study) -> str:
    """Return data and settings as a list."""
    about = found.about
    settings = about["settings"]
    assert isinstance(settings, dict)
    versions = about["versions"]
    assert isinstance(versions, dict)
    first = settings[study.SFT.name]
    used = ", ".join(f"{name} {number}" for name, number in versions.items())
    seeds, planned = len(found.of(study.SFT.name)), len(study.SEEDS)
    missing = "" if seeds == planned else f" of {planned}; the others are not measured yet"
    return "\n".join(
        (
            f"- Model: `{first['model']}`, NF4 with LoRA rank {first['lora_r']} on all linear "
            "layers.",
            f"- Data: `{about['data']}`, pairs of at most {about['longest_characters']} characters:"
            f" {about['training_pairs']} to train on, {about['held_out_pairs']} held out, one "
            "split for all runs.",
            f"- Training: {about['steps']} steps of {about['pairs_per_step']} pairs, "
            f"{first['scheduler']} schedule; learning rate {_rates(found, settings)}.",
            f"- Seeds: {seeds}{missing}. A seed decides the initial adapter and the order of the "
            "pairs.",
            f"- Measured with {used}.",
        )
    )


def _rates(found: Study, settings: dict[str, dict[str, object]]) -> str:
    rate, dpo = (settings[one.name]["learning_rate"] for one in (study.SFT, study.DPO))
    return f"{rate}, with DPO {dpo}" if found.of(study.DPO.name) else f"{rate}. DPO: not run yet"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _change(found: Study, after: str, before: str, side: str) -> Interval:
    """Return how a log-prob differs between two variants or from the base, interval over pairs."""
    difference = _per_pair(found, after, side) - _per_pair(found, before, side)
    return mean_interval(difference, np.arange(len(difference)))


def _per_pair(found: Study, name: str, side: str) -> Values:
    """Return the log-probs of the held-out pairs after the last step, means over seeds."""
    ends = [run.held_out[study.STEPS] for run in found.of(name)] or [found.held_out_base]
    return np.asarray([getattr(one, side) for one in ends], np.float64).mean(0)


def _signed(one: Interval | Mean) -> str:
    return f"{one.value:+.2f} ({one.low:+.2f} to {one.high:+.2f})"


def changes_table(found: Study) -> str:
    """Return how both log-probs differ from the base and from SFT, with intervals over pairs."""
    rows = []
    for name in study.VARIANTS:
        if found.of(name):
            changes = [
                _signed(_change(found, name, other, side))
                for other in (BASE, study.SFT.name)
                for side in ("chosen", "rejected")
            ]
            rows.append([name, *(changes if name != study.SFT.name else [*changes[:2], "–", "–"])])
    head = ("method", "chosen", "rejected", "chosen, minus SFT", "rejected, minus SFT")
    return table(head, rows)


def results_table(found: Study) -> str:
    """Return the held-out pairs before and after training, with intervals over seeds."""
    quantities: tuple[tuple[str, Quantity], ...] = (
        ("log odds ratio", figures.odds_ratio),
        ("log-prob gap", figures.gap),
        ("chosen log-prob", figures.chosen),
        ("rejected log-prob", figures.rejected),
        ("accuracy", figures.accuracy),
    )
    rows = [["base", *(f"{quantity(found.held_out_base):.2f}" for _, quantity in quantities)]]
    for name in study.VARIANTS:
        runs = [run.held_out[study.STEPS] for run in found.of(name)]
        if runs:
            means = (mean_of([quantity(run) for run in runs]) for _, quantity in quantities)
            rows.append([name, *map(str, means)])
    return table(("method", *(title for title, _ in quantities)), rows)


def distributions_table(found: Study) -> str:
    """Return mean and standard deviation of both ratios, sampled and measured."""
    assert found.base is not None
    strongest = study.ORPO[-1].name
    tuned = [run.held_out[study.STEPS] for run in found.of(strongest)]
    sampled = figures.sampled_ratios()
    rows = [
        ("two uniform probabilities", *sampled),
        ("base, all pairs", *_ratios([found.base])),
        ("base, held-out pairs", *_ratios([found.held_out_base])),
        (f"{strongest}, held-out pairs", *_ratios(tuned)),
    ]
    return table(
        ("pairs", "log probability ratio, mean ± sd", "log odds ratio, mean ± sd", "sd, quotient"),
        [
            (name, _spread(one), _spread(other), f"{_sd(other) / _sd(one):.2f}")
            for name, one, other in rows
        ],
    )


def _ratios(sides: Sequence[PairLogps]) -> tuple[list[float], list[float]]:
    return (
        [ratio for side in sides for ratio in side.ratios],
        [ratio for side in sides for ratio in side.odds_ratios],
    )


def _sd(values: Sequence[float]) -> float:
    return statistics.stdev(values)


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.2f} ± {_sd(values):.2f}"


def costs(path: Path) -> str:
    """Return the tables of `benchmarks.methods`, or how to make them."""
    if not path.is_file():
        return "Not measured yet: `python -m benchmarks.methods --help`."
    content = json.loads(path.read_text(encoding="utf-8"))
    return "\n".join(map(method_tables.to_text, content["cells"]))
