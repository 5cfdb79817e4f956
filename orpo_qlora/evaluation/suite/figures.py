"""Measured numbers by model, opponent and category, and what each of them means. Floor 5; no torch.

Every part of an evaluation gives figures; table, CSV, JSON and page are made of them alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from orpo_qlora.evaluation import statistics
from orpo_qlora.evaluation.statistics import Labels, Values
from orpo_qlora.runs.curves.intervals import Interval, clearly_best

Better = Literal["higher", "lower", "neither"]
Kind = Literal["mean", "share", "wins"]


@dataclass(frozen=True)
class Measure:
    """One kind of number."""

    name: str
    title: str
    kind: Kind
    better: Better
    meaning: str
    """Completes “The number is …”, for docs and tooltips."""


MEASURES = (
    Measure("length", "Tokens an answer", "mean", "neither", "sampled tokens an answer"),
    Measure("ended", "Ended its turn", "share", "higher", "answers that the model ended itself"),
    Measure("empty", "Empty answers", "share", "lower", "answers without a visible character"),
    Measure(
        "repetition",
        "Repetition",
        "mean",
        "lower",
        "1 minus different over all 4-grams of words within an answer",
    ),
    Measure(
        "per_input",
        "Similarity per input",
        "mean",
        "neither",
        "mean cosine between a prompt's answers (ORPO paper, eqs. 14 to 16)",
    ),
    Measure(
        "across_input",
        "Similarity across inputs",
        "mean",
        "neither",
        "mean cosine between the first answers to different prompts (likewise)",
    ),
    Measure("distinct_1", "Distinct words", "mean", "neither", "different over all words"),
    Measure("distinct_2", "Distinct bigrams", "mean", "neither", "different over all bigrams"),
    Measure(
        "self_bleu",
        "Self-BLEU",
        "mean",
        "neither",
        "mean BLEU of each answer against the prompt's other answers",
    ),
    Measure("perplexity", "Perplexity", "mean", "lower", "exp of the mean loss on a plain text"),
    Measure(
        "perplexity_ratio",
        "Perplexity ratio",
        "mean",
        "lower",
        "perplexity over the base's on the same text; 1 is no change",
    ),
    Measure(
        "kl_prompts",
        "KL on prompts",
        "mean",
        "neither",
        "KL of the next token's distribution from the base's on the prompts, nats a token",
    ),
    Measure("reward_wins", "Reward wins", "wins", "higher", "answers with the higher reward"),
    Measure("reward", "Reward", "mean", "neither", "mean reward of the answers, no unit"),
    Measure(
        "length_wins",
        "Wins by length alone",
        "wins",
        "neither",
        "wins under the length rule of the training pairs, the control of reward wins",
    ),
    Measure(
        "relevance",
        "Relevance",
        "mean",
        "neither",
        "mean cosine of the embeddings of prompt and answer",
    ),
    Measure("judge_wins", "Judge wins", "wins", "higher", "answers that the judge prefers"),
    Measure(
        "judge_lc_wins",
        "Judge wins, equal length",
        "wins",
        "higher",
        "the same read off a logistic fit at equal length",
    ),
    Measure("judge_concise", "Judged conciser", "wins", "neither", "answers judged less wordy"),
    Measure("judge_grade", "Judge grade", "mean", "higher", "mean grade of a turn, 1 to 10"),
)
_BY_NAME = {measure.name: measure for measure in MEASURES}


def measure_of(name: str) -> Measure:
    """Return a measure by name; KeyError without it."""
    return _BY_NAME[name]


class Figure(BaseModel):
    """One number of one model with its 95 % interval."""

    model_config = ConfigDict(frozen=True)

    measure: str
    system: str
    """Name of the model."""
    opponent: str = ""
    """Name of the model it is compared with; empty for a number of its own."""
    category: str = ""
    """Empty for all prompts."""
    interval: Interval
    count: int
    """Answers, comparisons or texts that it is over."""


@dataclass(frozen=True)
class PerAnswer:
    """A number for every answer of a model, to be summed up."""

    measure: str
    system: str
    values: Values
    prompts: Labels
    """Which prompt each value belongs to."""
    categories: Sequence[str]
    """Category of each value; empty texts without one."""
    opponent: str = ""

    def figures(self) -> list[Figure]:
        """Return the figure over all values, then one for each category."""
        if not len(self.values):
            return []
        found = [self._figure("", np.ones(len(self.values), dtype=bool))]
        labels = np.asarray(self.categories)
        for category in dict.fromkeys(one for one in self.categories if one):
            found.append(self._figure(category, labels == category))
        return found

    def _figure(self, category: str, kept: np.ndarray) -> Figure:
        values, prompts = self.values[kept], self.prompts[kept]
        return Figure(
            measure=self.measure,
            system=self.system,
            opponent=self.opponent,
            category=category,
            interval=_interval(measure_of(self.measure).kind, values, prompts),
            count=len(values),
        )


def _interval(kind: Kind, values: Values, prompts: Labels) -> Interval:
    if kind == "share":
        return statistics.share_interval(values > 0, prompts)
    if kind == "wins":
        return statistics.win_interval(values, prompts)
    return statistics.mean_interval(values, prompts)


def best_systems(figures: Iterable[Figure]) -> dict[tuple[str, str, str], str]:
    """Return the clearly best model by measure, opponent and category, where there is one."""
    groups: dict[tuple[str, str, str], dict[str, Interval]] = {}
    for one in figures:
        key = (one.measure, one.opponent, one.category)
        groups.setdefault(key, {})[one.system] = one.interval
    found = {}
    for key, intervals in groups.items():
        better = measure_of(key[0]).better
        if better != "neither":
            found[key] = clearly_best(intervals, is_higher_better=better == "higher")
    return {key: system for key, system in found.items() if system}
