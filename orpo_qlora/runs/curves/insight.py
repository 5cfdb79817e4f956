"""Insight: one sentence that interprets the curves of a run.

A rule maps the metrics so far to a sentence, or to None if it does not apply. The first rule that
applies gives the main insight; docs/insight.md lists all rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from orpo_qlora.config import TrainConfig
from orpo_qlora.methods import PREFERENCE, Part, method_of, rate_sentence
from orpo_qlora.runs.curves.metrics import ACCURACY, Metrics
from orpo_qlora.runs.curves.series import Course, Values

Level = Literal["bad", "watch", "good", "early"]

LEAST_STEPS = 20
"""Training steps before a trend is tested: two intervals of five steps."""
FEW_STEPS = 5
CERTAINTY = 2.5
"""Standard errors by which the means of two intervals must differ."""
NEGLIGIBLE_SHARE, DOMINANT_SHARE = 0.01, 0.5
LEARNT_OR = 0.3
"""Below this OR loss the preference is learnt: odds of about 3 to 1."""
CERTAIN_CHOSEN, IMPOSSIBLE_REJECTED = -0.3, -5.0
TURNED_SHARE = 0.01
FALLEN_NATS = 0.05
LEVEL_SHARE = 0.01
FINAL_RATE_SHARE = 0.1
"""Below this share of its peak the learning rate is at its end, where a plateau is expected."""


@dataclass(frozen=True)
class Insight:
    """The result of one rule."""

    rule: str
    level: Level
    sentence: str
    advice: str = ""


@dataclass(frozen=True)
class Evidence:
    """The input of the rules."""

    metrics: Metrics
    config: TrainConfig

    def train(self, name: str) -> Course:
        """Return a metric of the training steps."""
        return self.metrics.course(name)

    def held_out(self, name: str) -> Course:
        """Return a metric of the evaluations."""
        return self.metrics.course(name, held_out=True)

    def recent(self, name: str) -> float:
        """Return the mean of a metric over the last quarter of the steps, NaN without any."""
        values = self.train(name).values
        return (
            float(values[-max(FEW_STEPS, len(values) // 4) :].mean()) if len(values) else math.nan
        )

    @property
    def preference(self) -> Part | None:
        """The preference term of the loss, if an NLL stands beside it and a few steps know it."""
        parts = method_of(self.config).parts(self.config)
        if len(parts) < 2 or len(self.train(parts[1].metric)) < FEW_STEPS:
            return None
        return parts[1]

    def share_of(self, part: Part) -> float:
        """Return the share of a weighted component in the recent loss."""
        loss = self.recent("loss")
        return part.weight * self.recent(part.metric) / loss if loss else math.nan

    def gap(self) -> Values:
        """Return chosen minus rejected log-prob of every training step."""
        chosen, rejected = self.train("logps/chosen"), self.train("logps/rejected")
        count = min(len(chosen), len(rejected))
        return chosen.values[:count] - rejected.values[:count]


@dataclass(frozen=True)
class Change:
    """Means of two quarters of a curve, and the standard error of their difference."""

    before: float
    now: float
    error: float

    @classmethod
    def of(cls, values: Values) -> Change | None:
        """Return the change from the third to the fourth quarter; None while it is too short."""
        if len(values) < LEAST_STEPS:
            return None
        late = values[len(values) // 2 :]
        return cls._between(late[: len(late) // 2], late[len(late) // 2 :], late)

    @classmethod
    def overall(cls, values: Values) -> Change | None:
        """Return the change from the first to the fourth quarter; None while it is too short."""
        if len(values) < LEAST_STEPS:
            return None
        quarter = len(values) // 4
        return cls._between(values[:quarter], values[-quarter:], values)

    @classmethod
    def _between(cls, before: Values, now: Values, around: Values) -> Change:
        # From differences of neighbours, so that a trend does not count as noise.
        noise = float(np.diff(around).std()) / math.sqrt(2)
        error = noise * math.sqrt(1 / len(before) + 1 / len(now))
        return cls(float(before.mean()), float(now.mean()), error)

    @property
    def rises(self) -> bool:
        """Whether it rose significantly."""
        return self.now - self.before > max(CERTAINTY * self.error, 1e-6)

    @property
    def falls(self) -> bool:
        """Whether it fell significantly."""
        return self.before - self.now > max(CERTAINTY * self.error, 1e-6)

    @property
    def is_level(self) -> bool:
        """Whether a change of 1 % can be ruled out."""
        possible = abs(self.now - self.before) + CERTAINTY * self.error
        return possible < LEVEL_SHARE * abs(self.before)

    def __str__(self) -> str:
        return f"{self.before:.3g} → {self.now:.3g}"


def _not_finite(seen: Evidence) -> str | None:
    steps = seen.metrics.broken("loss") or seen.metrics.broken("loss", held_out=True)
    return f"The loss was not a finite number at step {steps[0]:,}." if steps else None


def _overfit(seen: Evidence) -> str | None:
    chosen, rejected = seen.recent("logps/chosen"), seen.recent("logps/rejected")
    is_long = len(seen.train("logps/chosen")) >= FEW_STEPS
    if not (is_long and chosen > CERTAIN_CHOSEN and rejected < IMPOSSIBLE_REJECTED):
        return None
    return (
        f"The run overfits: on training pairs the chosen log-prob is {chosen:.2f} (almost certain) "
        f"and the rejected one {rejected:.1f} (almost impossible)."
    )


def _held_out_loss_turned(seen: Evidence) -> str | None:
    course = seen.held_out("loss")
    best = _turned(-course.values, lambda top: TURNED_SHARE * abs(top))
    if best is None:
        return None
    return (
        f"The held-out loss was lowest at step {course.steps[best]:,} "
        f"({course.values[best]:.3g}) and has risen since ({course.values[-1]:.3g})."
    )


def _held_out_accuracy_turned(seen: Evidence) -> str | None:
    course, pairs = seen.held_out(ACCURACY), seen.held_out("pairs")
    count = float(pairs.values[-1]) if len(pairs) else 0.0
    # Tolerance: two pairs, or one standard error of the share.
    best = _turned(
        course.values,
        lambda top: max(2 / max(count, 1), math.sqrt(max(top * (1 - top), 0.01) / max(count, 1))),
    )
    if best is None:
        return None
    return (
        f"On held-out pairs the preference accuracy was best at step {course.steps[best]:,} "
        f"({course.values[best]:.0%}) and has fallen since ({course.values[-1]:.0%})."
    )


def _turned(values: Values, tolerance: Callable[[float], float]) -> int | None:
    """Return the index of the maximum, if the last two points are below it by over a tolerance."""
    if len(values) < 3:
        return None
    best = int(values.argmax())
    worst_allowed = float(values[best]) - tolerance(float(values[best]))
    is_past = best < len(values) - 2 and bool((values[-2:] < worst_allowed).all())
    return best if is_past else None


def _chosen_falling(seen: Evidence) -> str | None:
    gap, chosen = Change.of(seen.gap()), Change.of(seen.train("logps/chosen").values)
    if gap is None or chosen is None or not (gap.rises and chosen.falls):
        return None
    if chosen.before - chosen.now < FALLEN_NATS:
        return None
    return (
        f"The chosen log-prob falls ({chosen}) while the log-prob gap grows ({gap}): the gap comes "
        "from lowering the rejected responses, not from learning the chosen ones."
    )


def _odds_dominant(seen: Evidence) -> str | None:
    part = seen.preference
    if part is None or not seen.share_of(part) > DOMINANT_SHARE:
        return None
    share = f"{_named(part)} is {seen.share_of(part):.0%} of the loss"
    return f"{share}: the preference term outweighs the chosen responses."


def _odds_negligible(seen: Evidence) -> str | None:
    part = seen.preference
    if part is None or not 0 < seen.share_of(part) < NEGLIGIBLE_SHARE:
        return None
    if seen.recent(part.metric) < LEARNT_OR:
        return None
    return (
        f"{_named(part)} is only {seen.share_of(part):.1%} of the loss and the preference is not "
        "learnt yet: training is almost only SFT on the chosen responses."
    )


def _named(part: Part) -> str:
    return "The preference term" if part.label == PREFERENCE.label else part.label


def _rate_high(seen: Evidence) -> str | None:
    return rate_sentence(seen.config) or None


def _plateau(seen: Evidence) -> str | None:
    course, rate = seen.train("loss"), seen.train("learning_rate").values
    change, gap = Change.of(course.values), Change.of(seen.gap())
    if change is None or not change.is_level or (gap is not None and gap.rises):
        return None
    if len(rate) and rate[-1] < FINAL_RATE_SHARE * rate.max():
        return None
    since = course.steps[len(course) // 2]
    return f"The loss has been flat since step {since:,} ({change})."


def _too_early(seen: Evidence) -> str | None:
    steps = len(seen.train("loss"))
    if steps >= LEAST_STEPS:
        return None
    return f"Too early: {steps} of the {LEAST_STEPS} steps needed for a trend."


def _healthy(seen: Evidence) -> str | None:
    loss, gap = Change.of(seen.train("loss").values), Change.of(seen.gap())
    falls, grows = loss is not None and loss.falls, gap is not None and gap.rises
    if falls and grows:
        return f"The loss falls ({loss}) and the log-prob gap grows ({gap})."
    if falls:
        return f"The loss falls ({loss})."
    return f"The log-prob gap grows ({gap})." if grows else None


def _settled(seen: Evidence) -> str | None:
    loss, gap = Change.overall(seen.train("loss").values), Change.overall(seen.gap())
    fell, grew = loss is not None and loss.falls, gap is not None and gap.rises
    if fell and grew:
        return f"The loss fell ({loss}) and the log-prob gap grew ({gap}); both have settled."
    if fell:
        return f"The loss fell ({loss}) and has settled."
    return f"The log-prob gap grew ({gap}) and has settled." if grew else None


def _no_trend(seen: Evidence) -> str | None:
    return "No trend stands out from the noise between steps."


MILDER, STRONGER = "a milder objective", "a stronger objective"
"""Replaced by the method's own setting."""


@dataclass(frozen=True)
class Rule:
    """A rule and its advice."""

    id: str
    level: Level
    when: str
    """The condition in words, for the docs."""
    advice: str
    says: Callable[[Evidence], str | None]


RULES = (
    Rule(
        "not-finite",
        "bad",
        "a loss on training or held-out pairs was NaN or infinite",
        "Lower the learning rate and check the pairs of that step.",
        _not_finite,
    ),
    Rule(
        "overfit",
        "bad",
        f"over the last quarter of the steps (at least {FEW_STEPS}) the mean log-prob of the "
        f"chosen responses is above {CERTAIN_CHOSEN:g} and that of the rejected ones below "
        f"{IMPOSSIBLE_REJECTED:g}: the sign of overfitting that ORPO's authors name",
        f"Stop; use fewer epochs, a lower learning rate or {MILDER}.",
        _overfit,
    ),
    Rule(
        "held-out-loss-turned",
        "bad",
        f"the last two evaluations are more than {TURNED_SHARE:.0%} above the lowest held-out loss",
        "Stop; next time end near that step.",
        _held_out_loss_turned,
    ),
    Rule(
        "held-out-accuracy-turned",
        "bad",
        "the last two evaluations have over two pairs fewer right than the best one, and over one "
        "standard error of its share fewer",
        "Stop; next time end near that step.",
        _held_out_accuracy_turned,
    ),
    Rule(
        "chosen-falling",
        "watch",
        f"in the second half of the steps the chosen log-prob falls by {FALLEN_NATS:g} nats or "
        "more while chosen minus rejected grows, both significantly",
        f"Use {MILDER} or a lower learning rate.",
        _chosen_falling,
    ),
    Rule(
        "odds-dominant",
        "watch",
        f"over the last quarter of the steps λ·OR, or another method's preference term beside an "
        f"NLL, is more than {DOMINANT_SHARE:.0%} of the loss",
        f"Use {MILDER}.",
        _odds_dominant,
    ),
    Rule(
        "odds-negligible",
        "watch",
        f"over the last quarter of the steps λ·OR is less than {NEGLIGIBLE_SHARE:.0%} of the loss "
        f"though the OR loss is still above {LEARNT_OR:g}; likewise for other methods",
        f"Use {STRONGER}.",
        _odds_negligible,
    ),
    Rule(
        "plateau",
        "watch",
        f"the loss of the third and the fourth quarter differ by less than {LEVEL_SHARE:.0%} even "
        "at the edge of the confidence interval, the log-prob gap does not grow, and the "
        "learning rate is not at its end",
        "Stop, or raise the learning rate.",
        _plateau,
    ),
    Rule(
        "rate-high",
        "watch",
        "the learning rate is above what is usual for the method with LoRA: 1e-3 for orpo and sft, "
        "5e-5 for the others",
        "If the curves look rough or the responses degrade, start again with a lower one.",
        _rate_high,
    ),
    Rule("too-early", "early", f"fewer than {LEAST_STEPS} training steps", "", _too_early),
    Rule(
        "healthy",
        "good",
        "the loss falls, or chosen minus rejected grows, significantly",
        "",
        _healthy,
    ),
    Rule(
        "settled",
        "good",
        "the loss fell, or chosen minus rejected grew, from the first quarter of the steps to the "
        "last, but no longer does",
        "",
        _settled,
    ),
    Rule("no-trend", "early", "none of the above", "", _no_trend),
)


def judge(metrics: Metrics, config: TrainConfig) -> list[Insight]:
    """Return the insights, the most important first; never empty.

    After the first one only warnings follow.
    """
    seen = Evidence(metrics, config)
    found = [
        Insight(rule.id, rule.level, sentence, _advice(rule, config))
        for rule in RULES
        if (sentence := rule.says(seen)) is not None
    ]
    return [found[0], *(one for one in found[1:] if one.level in {"bad", "watch"})]


def _advice(rule: Rule, config: TrainConfig) -> str:
    method = method_of(config)
    return rule.advice.replace(MILDER, method.milder).replace(STRONGER, method.stronger)
