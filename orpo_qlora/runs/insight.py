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

from orpo_qlora.runs.metrics import Metrics
from orpo_qlora.runs.series import Course, Values

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
    lambda_: float

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
    def odds_share(self) -> float:
        """Share of λ·OR in the recent loss."""
        loss = self.recent("loss")
        return self.lambda_ * self.recent("or_loss") / loss if loss else math.nan

    def gap(self) -> Values:
        """Return chosen minus rejected log-prob of every training step."""
        chosen, rejected = self.train("logps/chosen"), self.train("logps/rejected")
        count = min(len(chosen), len(rejected))
        return chosen.values[:count] - rejected.values[:count]


@dataclass(frozen=True)
class Change:
    """Means of a curve's third and fourth quarter, and the standard error of their difference."""

    before: float
    now: float
    error: float

    @classmethod
    def of(cls, values: Values) -> Change | None:
        """Return the change in the second half of a curve; None while it is too short."""
        if len(values) < LEAST_STEPS:
            return None
        late = values[len(values) // 2 :]
        before, now = late[: len(late) // 2], late[len(late) // 2 :]
        # From differences of neighbours, so that a trend does not count as noise.
        noise = float(np.diff(late).std()) / math.sqrt(2)
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
    course, pairs = seen.held_out("rewards/accuracies"), seen.held_out("pairs")
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
    share = seen.odds_share
    if len(seen.train("or_loss")) < FEW_STEPS or not share > DOMINANT_SHARE:
        return None
    return f"λ·OR is {share:.0%} of the loss: the preference term outweighs the chosen responses."


def _odds_negligible(seen: Evidence) -> str | None:
    share = seen.odds_share
    if len(seen.train("or_loss")) < FEW_STEPS or not 0 < share < NEGLIGIBLE_SHARE:
        return None
    if seen.recent("or_loss") < LEARNT_OR:
        return None
    return (
        f"λ·OR is only {share:.1%} of the loss and the preference is not learnt yet: training is "
        "almost only SFT on the chosen responses."
    )


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


def _no_trend(seen: Evidence) -> str | None:
    return "No trend stands out from the noise between steps."


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
        "Stop; use fewer epochs, a lower learning rate or a smaller λ.",
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
        "Use a smaller λ or a lower learning rate.",
        _chosen_falling,
    ),
    Rule(
        "odds-dominant",
        "watch",
        f"over the last quarter of the steps λ·OR is more than {DOMINANT_SHARE:.0%} of the loss",
        "Use a smaller λ.",
        _odds_dominant,
    ),
    Rule(
        "odds-negligible",
        "watch",
        f"over the last quarter of the steps λ·OR is less than {NEGLIGIBLE_SHARE:.0%} of the loss "
        f"though the OR loss is still above {LEARNT_OR:g}",
        "Use a larger λ.",
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
    Rule("too-early", "early", f"fewer than {LEAST_STEPS} training steps", "", _too_early),
    Rule(
        "healthy",
        "good",
        "the loss falls, or chosen minus rejected grows, significantly",
        "",
        _healthy,
    ),
    Rule("no-trend", "early", "none of the above", "", _no_trend),
)


def judge(metrics: Metrics, lambda_: float) -> list[Insight]:
    """Return the insights, the most important first; never empty.

    After the first one only warnings follow.
    """
    seen = Evidence(metrics, lambda_)
    found = [
        Insight(rule.id, rule.level, sentence, rule.advice)
        for rule in RULES
        if (sentence := rule.says(seen)) is not None
    ]
    return [found[0], *(one for one in found[1:] if one.level in {"bad", "watch"})]
