"""What the study measured, as JSON, and means with 95 % intervals."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from orpo_qlora import storage
from orpo_qlora.config import build_config

T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}
"""Two-sided 95 % quantiles of Student's t by the number of values."""


@dataclass(frozen=True)
class PairLogps:
    """Mean token log-probs of responses in nats, one a pair."""

    chosen: list[float]
    rejected: list[float]

    @property
    def ratios(self) -> list[float]:
        """Log probability ratio of each pair: log p(chosen) − log p(rejected)."""
        return [c - r for c, r in zip(self.chosen, self.rejected, strict=True)]

    @property
    def odds_ratios(self) -> list[float]:
        """Log odds ratio of each pair (arXiv 2403.07691, equations 4 and 5)."""
        return [log_odds(c) - log_odds(r) for c, r in zip(self.chosen, self.rejected, strict=True)]

    @property
    def accuracy(self) -> float:
        """Share of pairs whose chosen response is more likely."""
        return statistics.fmean(ratio > 0 for ratio in self.ratios)


@dataclass(frozen=True)
class Training:
    """One training: metrics of every step, and the held-out pairs after some."""

    variant: str
    seed: int
    learning_rate: float
    steps: list[dict[str, float]]
    held_out: dict[int, PairLogps]


@dataclass
class Study:
    """Everything that the page is made of."""

    about: dict[str, object]
    """Data, settings, hardware and versions; a study with another `about` starts again."""
    base: PairLogps | None = None
    """Of all pairs under the base, held-out ones first."""
    trainings: list[Training] = field(default_factory=list)

    def has(self, variant: str, seed: int) -> bool:
        """Whether a training is done."""
        return any((one.variant, one.seed) == (variant, seed) for one in self.trainings)

    def of(self, variant: str) -> list[Training]:
        """Return the trainings of a variant by seed."""
        found = [one for one in self.trainings if one.variant == variant]
        return sorted(found, key=lambda one: one.seed)

    @property
    def held_out_base(self) -> PairLogps:
        """Log-probs of the held-out pairs under the base."""
        assert self.base is not None
        count = len(next(iter(self.trainings[0].held_out.values())).chosen)
        return PairLogps(self.base.chosen[:count], self.base.rejected[:count])

    def curve(self, variant: str, quantity: Quantity) -> list[Point]:
        """Return a mean over held-out pairs at step 0 and each measured step, over the seeds."""
        runs = self.of(variant)
        start = quantity(self.held_out_base)
        points = [Point(0, Mean(start, start, start))]
        points += [
            Point(step, mean_of([quantity(run.held_out[step]) for run in runs]))
            for step in sorted(runs[0].held_out)
        ]
        return points


@dataclass(frozen=True)
class Mean:
    """A mean with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class Point:
    """A mean after a step."""

    step: int
    mean: Mean


Quantity = Callable[[PairLogps], float]


def log_odds(logp: float) -> float:
    """Return log(p / (1 − p)) of a log-prob below 0."""
    return logp - math.log(-math.expm1(logp))


def mean_of(values: Sequence[float]) -> Mean:
    """Return the mean of a value a seed with Student's interval; of one value, the value alone."""
    value = statistics.fmean(values)
    if len(values) < 2:
        return Mean(value, value, value)
    half = T_95[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    return Mean(value, value - half, value + half)


def read_study(path: Path, about: Mapping[str, object]) -> Study:
    """Return the study in a file, an empty one where the file is missing or of other settings.

    Settings that the program got since have their defaults in the file.
    """
    if path.is_file():
        study = load_study(path)
        if _with_defaults(study.about) == about:
            return replace(study, about=dict(about))
    return Study(dict(about))


def _with_defaults(about: Mapping[str, Any]) -> dict[str, object]:
    settings = {
        name: build_config(values, source="the kept results").model_dump(mode="json", by_alias=True)
        for name, values in about["settings"].items()
    }
    return {**about, "settings": settings}


def load_study(path: Path) -> Study:
    """Return the study in a file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    trainings = [
        Training(
            **{
                **one,
                "held_out": {int(step): PairLogps(**at) for step, at in one["held_out"].items()},
            }
        )
        for one in content["trainings"]
    ]
    base = content["base"]
    return Study(content["about"], PairLogps(**base) if base else None, trainings)


def write_study(path: Path, study: Study) -> None:
    """Write a study so that a reader sees all of it or the previous one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    storage.write_whole(path, json.dumps(_rounded(asdict(study)), ensure_ascii=False) + "\n")


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list) else value
