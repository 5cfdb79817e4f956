"""What a reward model says, and what explains it: accuracy, controls, wins. Floor 5; no torch.

A reward model trained on the user's pairs measures agreement with them, not quality. Two controls
are always beside it: the rule that the shorter, or the longer, response wins, and the right topic
against a wrong one in the same style.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from orpo_qlora.data.pairs import PreferencePair
from orpo_qlora.evaluation import statistics
from orpo_qlora.evaluation.report_card import in_percent
from orpo_qlora.evaluation.statistics import Labels, Values
from orpo_qlora.runs.curves.intervals import Interval

EXAMPLES = 10
CHANCE = 0.5


class LengthRule(BaseModel):
    """“The shorter (or longer) response wins”, in the direction of the training pairs."""

    model_config = ConfigDict(frozen=True)

    prefers_shorter: bool
    agreement: Interval
    """Share of held-out pairs whose chosen response it prefers; equal lengths count half."""

    @property
    def name(self) -> str:
        """The rule in words."""
        return f"the {'shorter' if self.prefers_shorter else 'longer'} answer wins"


class RewardModelCheck(BaseModel):
    """How a reward model does on held-out pairs of the run, with its controls."""

    model_config = ConfigDict(frozen=True)

    reward_model: str = Field(validation_alias=AliasChoices("reward_model", "judge"))
    """Its name; older results have it as `judge`."""
    is_trained_here: bool
    """On the run's training pairs; otherwise a model that was given."""
    pairs: int
    agreement: Interval
    """Share of held-out pairs whose chosen response has the higher reward."""
    length_rule: LengthRule
    topic: Interval | None
    """Share of prompts whose own chosen response has a higher reward than another prompt's."""
    relevance_topic: Interval | None = None
    """The same by the cosine of prompt and response; None without an embedder."""

    @property
    def is_refused(self) -> bool:
        """Whether a model trained here agrees with held-out pairs no better than chance."""
        return self.is_trained_here and self.agreement.low <= CHANCE

    def sentences(self) -> list[str]:
        """Return accuracy and controls in words, and what they explain."""
        found = [
            f"Agreement with your pairs, not quality: {self.reward_model} prefers the chosen "
            f"response in {in_percent(self.agreement)} of {self.pairs:,} held-out pairs."
        ]
        if self.is_refused:
            found.append(
                "The interval contains 50 %, so this reward model is not used: no win rate is "
                "given. More or clearer pairs would help, or another reward model."
            )
        return [*found, self._length_sentence(), *self._topic_sentences()]

    def _length_sentence(self) -> str:
        rule = self.length_rule
        text = f"Control, length: “{rule.name}” agrees in {in_percent(rule.agreement)}."
        if rule.agreement.high < self.agreement.low:
            return f"{text} Length alone does not explain the reward model."
        return f"{text} Length alone could explain every decision of the reward model."

    def _topic_sentences(self) -> list[str]:
        found = []
        if self.topic is not None:
            text = (
                "Control, topic: it prefers the right topic to a wrong one in the same style in "
                f"{in_percent(self.topic)}."
            )
            is_chance = self.topic.low <= CHANCE
            found.append(
                f"{text} It rewards style alone: an answer off the topic would win as easily."
                if is_chance
                else text
            )
        if self.relevance_topic is not None:
            found.append(
                "Relevance by embedding finds the right topic in "
                f"{in_percent(self.relevance_topic)}."
            )
        return found


class Example(BaseModel):
    """A clear win or loss with its texts."""

    model_config = ConfigDict(frozen=True)

    system: str
    opponent: str
    prompt: str
    answer: str
    other: str
    difference: float
    """Reward of `answer` minus that of `other`."""


class RewardDetails(BaseModel):
    """Everything about the reward part that is not a figure."""

    model_config = ConfigDict(frozen=True)

    check: RewardModelCheck | None
    """None where there are no held-out pairs."""
    rewards: dict[str, tuple[float, ...]]
    """Rewards of every model's answers, in the order of prompts and samples."""
    wins: tuple[Example, ...] = ()
    losses: tuple[Example, ...] = ()


def agreement(chosen: Values, rejected: Values, prompts: Labels) -> Interval:
    """Return the share of pairs whose chosen response has the higher reward."""
    return statistics.win_interval(outcomes(chosen, rejected), prompts)


def outcomes(ours: Values, theirs: Values) -> Values:
    """Return 1 where our value is higher, 0 where it is lower, 0.5 where both are equal."""
    return np.asarray((np.sign(ours - theirs) + 1) / 2, dtype=np.float64)


def length_rule(
    training: Sequence[PreferencePair], held_out: Sequence[PreferencePair], prompts: Labels
) -> LengthRule:
    """Return the length rule of the training pairs, checked on held-out ones."""
    shorter = sum(int(np.sign(len(one.rejected) - len(one.chosen))) for one in training)
    sign = 1.0 if shorter >= 0 else -1.0
    lengths = np.asarray([[len(one.chosen), len(one.rejected)] for one in held_out], dtype=float)
    won = outcomes(-sign * lengths[:, 0], -sign * lengths[:, 1])
    return LengthRule(prefers_shorter=sign > 0, agreement=statistics.win_interval(won, prompts))


def wrong_topics(pairs: Sequence[PreferencePair]) -> list[tuple[int, int]]:
    """Return for one pair of each prompt the index of a pair with another prompt.

    Empty with fewer than two prompts.
    """
    firsts = list({pair.conversation: at for at, pair in reversed(list(enumerate(pairs)))}.values())
    firsts.reverse()
    count = len(firsts)
    shift = count // 2
    return [(firsts[at], firsts[(at + shift) % count]) for at in range(count)] if shift else []


def clearest(
    examples: Sequence[Example], most: int = EXAMPLES
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Return the clearest wins and the clearest losses."""
    ordered = sorted(examples, key=lambda one: -one.difference)
    wins = [one for one in ordered if one.difference > 0][:most]
    losses = [one for one in reversed(ordered) if one.difference < 0][:most]
    return tuple(wins), tuple(losses)


def length_wins(lengths: Mapping[str, Values], system: str, other: str, rule: LengthRule) -> Values:
    """Return the outcomes of two models' answers under the length rule alone."""
    sign = -1.0 if rule.prefers_shorter else 1.0
    return outcomes(sign * lengths[system], sign * lengths[other])
