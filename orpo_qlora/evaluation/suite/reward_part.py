"""Reward-model win rates with their controls. Floor 5; torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from orpo_qlora import storage
from orpo_qlora.data.messages import Message
from orpo_qlora.data.pairs import PreferencePair
from orpo_qlora.evaluation.answers.kept import Answer, Answers
from orpo_qlora.evaluation.answers.prompts import PromptSet
from orpo_qlora.evaluation.embedding_models import load_embedder
from orpo_qlora.evaluation.embeddings import Embed, is_installed
from orpo_qlora.evaluation.reward import verdicts
from orpo_qlora.evaluation.reward.model import RewardModel, load_reward_model, rewards_of
from orpo_qlora.evaluation.reward.training import trained_reward_model
from orpo_qlora.evaluation.reward.verdicts import Example, RewardDetails, RewardModelCheck
from orpo_qlora.evaluation.statistics import Values
from orpo_qlora.evaluation.suite.answer_part import ordered_answers
from orpo_qlora.evaluation.suite.figures import Figure, PerAnswer
from orpo_qlora.evaluation.suite.progress import Progress
from orpo_qlora.evaluation.suite.request import SuiteRequest
from orpo_qlora.evaluation.suite.results import SuitePaths, SuiteResults, answers_of
from orpo_qlora.runs import store
from orpo_qlora.runs.curves.intervals import Interval
from orpo_qlora.runs.store import Run

MOST_PAIRS = 400
"""Held-out pairs on which a reward model is checked."""

REWARD_KEY = ("reward_model", "answers", "prompt", "sample")
"""What the reward of an answer is kept by."""

Step = Callable[[], object]

NO_PAIRS = (
    "The first run has no held-out pairs: agreement with your pairs and controls are unknown."
)


@dataclass(frozen=True)
class RewardFound:
    """Result of the reward part."""

    figures: tuple[Figure, ...]
    details: RewardDetails

    @property
    def sentences(self) -> tuple[str, ...]:
        """The check of the reward model in words."""
        check = self.details.check
        return tuple(check.sentences()) if check else (NO_PAIRS,)


def measure_reward(
    request: SuiteRequest, paths: SuitePaths, results: SuiteResults, progress: Progress
) -> RewardFound:
    """Load or train a reward model, check it on held-out pairs, and score the answers.

    A model that the check refuses scores nothing. Raises what `load_reward_model` and
    `trained_reward_model` do.
    """
    run = store.read_run(store.paths_of(request.adapters[0].run))
    is_trained_here = not request.reward_model
    if is_trained_here:
        progress.start("training a reward model", 0)
        model = trained_reward_model(run, progress.at)
    else:
        progress.start("loading the reward model", 0)
        model = load_reward_model(request.reward_model)
    embed = load_embedder(request.embedder) if is_installed(request.embedder) else None
    progress.start("checking the reward model on held-out pairs", 0)
    check = check_reward_model(
        model, run, is_trained_here=is_trained_here, embed=embed, on_step=progress.advance
    )
    if check.is_refused if check else is_trained_here:
        return RewardFound((), RewardDetails(check=check, rewards={}))
    answers = len(results.prompts.prompts) * results.sampling.samples
    progress.start("scoring the answers", len(results.systems) * answers)
    rewards = reward_answers(model, paths, results, progress.advance)
    return compare_rewards(results, rewards, check, embed)


def check_reward_model(
    model: RewardModel, run: Run, *, is_trained_here: bool, embed: Embed | None, on_step: Step
) -> RewardModelCheck | None:
    """Return how a reward model does on a run's held-out pairs; None where there are none.

    Single labelled responses have nothing to be compared with and are left out.
    """
    training, pairs = (
        [pair for pair in found if not pair.single]
        for found in (store.training_pairs(run.paths), store.held_out_pairs(run.paths))
    )
    pairs = pairs[:MOST_PAIRS]
    if not pairs:
        return None
    numbers = {one: at for at, one in enumerate(dict.fromkeys(p.conversation for p in pairs))}
    prompts = np.asarray([numbers[pair.conversation] for pair in pairs], dtype=np.int64)
    chosen, rejected = (
        np.asarray(
            rewards_of(
                model,
                [((*p.conversation, p.responses[side]), p.tool_use.tools) for p in pairs],
                on_step,
            )
        )
        for side in (0, 1)
    )
    return RewardModelCheck(
        reward_model=model.name,
        is_trained_here=is_trained_here,
        pairs=len(pairs),
        agreement=verdicts.agreement(chosen, rejected, prompts),
        length_rule=verdicts.length_rule(training, pairs, prompts),
        topic=_topic(model, pairs, chosen, on_step),
        relevance_topic=_relevance_topic(pairs, embed),
    )


def _topic(
    model: RewardModel, pairs: Sequence[PreferencePair], chosen: Values, on_step: Step
) -> Interval | None:
    places = verdicts.wrong_topics(pairs)
    if not places:
        return None
    wrong = rewards_of(
        model,
        [
            ((*pairs[at].conversation, pairs[other].responses[0]), pairs[at].tool_use.tools)
            for at, other in places
        ],
        on_step,
    )
    right = chosen[[at for at, _ in places]]
    return verdicts.agreement(right, np.asarray(wrong), np.arange(len(places)))


def _relevance_topic(pairs: Sequence[PreferencePair], embed: Embed | None) -> Interval | None:
    places = verdicts.wrong_topics(pairs)
    usable = [
        (at, other)
        for at, other in places
        if pairs[at].prompt.strip() and pairs[at].chosen.strip() and pairs[other].chosen.strip()
    ]
    if embed is None or not usable:
        return None
    prompts = embed([pairs[at].prompt for at, _ in usable])
    right, wrong = (
        np.einsum("ij,ij->i", prompts, embed([pairs[place[side]].chosen for place in usable]))
        for side in (0, 1)
    )
    return verdicts.agreement(right, wrong, np.arange(len(usable)))


def reward_answers(
    model: RewardModel, paths: SuitePaths, results: SuiteResults, on_step: Step
) -> dict[str, Values]:
    """Return the reward of every model's first turns, kept line by line for a restart."""
    lines = storage.JsonLines(paths.rewards)
    known = {
        tuple(one.get(name) for name in REWARD_KEY): one["reward"]
        for one in storage.read_json_lines(paths.rewards)[0]
    }
    found: dict[str, Values] = {}
    try:
        for system in results.systems:
            rewards = []
            for number, answer in _answers(results, answers_of(system)):
                prompt = results.prompts.prompts[number]
                key = (model.name, system.answers, answer.prompt, answer.sample)
                value = known.get(key)
                if value is None:
                    turns = (*prompt.opening, Message("assistant", answer.texts[0]))
                    value = model.reward(turns, prompt.tools)
                    lines.append({**dict(zip(REWARD_KEY, key, strict=True)), "reward": value})
                rewards.append(value)
                on_step()
            found[system.name] = np.asarray(rewards, dtype=np.float64)
    finally:
        lines.close()
    return found


def _answers(results: SuiteResults, answers: Answers) -> list[tuple[int, Answer]]:
    return ordered_answers(results.prompts, answers, results.sampling.samples)


def compare_rewards(
    results: SuiteResults,
    rewards: Mapping[str, Values],
    check: RewardModelCheck | None,
    embed: Embed | None,
) -> RewardFound:
    """Return win rates of every run against every other model, mean rewards and relevance."""
    answers = {one.name: _answers(results, answers_of(one)) for one in results.systems}
    lengths = {
        name: np.asarray([len(answer.texts[0]) for _, answer in given], dtype=np.float64)
        for name, given in answers.items()
    }
    first = next(iter(answers.values()))
    labels = np.asarray([number for number, _ in first], dtype=np.int64)
    categories = [results.prompts.prompts[number].category for number in labels]
    figures = [
        figure
        for name, values in rewards.items()
        for figure in PerAnswer("reward", name, values, labels, categories).figures()
    ]
    examples: list[Example] = []
    runs = {one.name for one in results.systems if one.run}
    for system, other in permutations(rewards, 2):
        if system not in runs:
            continue
        won = verdicts.outcomes(rewards[system], rewards[other])
        figures += PerAnswer("reward_wins", system, won, labels, categories, other).figures()
        if check is not None:
            by_length = verdicts.length_wins(lengths, system, other, check.length_rule)
            figures += PerAnswer(
                "length_wins", system, by_length, labels, categories, other
            ).figures()
        if other not in runs:
            examples += _examples(results, answers, rewards, system, other)
    if embed is not None:
        for name, given in answers.items():
            figures += _relevance(results.prompts, name, given, embed)
    wins, losses = verdicts.clearest(examples)
    return RewardFound(
        tuple(figures),
        RewardDetails(
            check=check,
            rewards={name: tuple(values.tolist()) for name, values in rewards.items()},
            wins=wins,
            losses=losses,
        ),
    )


def _examples(
    results: SuiteResults,
    answers: Mapping[str, Sequence[tuple[int, Answer]]],
    rewards: Mapping[str, Values],
    system: str,
    other: str,
) -> list[Example]:
    return [
        Example(
            system=system,
            opponent=other,
            prompt=results.prompts.prompts[number].text,
            answer=ours.texts[0],
            other=theirs.texts[0],
            difference=float(rewards[system][at] - rewards[other][at]),
        )
        for at, ((number, ours), (_, theirs)) in enumerate(
            zip(answers[system], answers[other], strict=True)
        )
    ]


def _relevance(
    prompts: PromptSet, name: str, given: Sequence[tuple[int, Answer]], embed: Embed
) -> list[Figure]:
    """Return the mean cosine of prompt and answer; empty answers are left out."""
    usable = [
        (number, answer.texts[0])
        for number, answer in given
        if answer.texts[0].strip() and prompts.prompts[number].text.strip()
    ]
    if not usable:
        return []
    questions = embed([prompts.prompts[number].text for number, _ in usable])
    cosines = np.einsum("ij,ij->i", questions, embed([text for _, text in usable]))
    labels = np.asarray([number for number, _ in usable], dtype=np.int64)
    categories = [prompts.prompts[number].category for number in labels]
    return PerAnswer("relevance", name, cosines, labels, categories).figures()
