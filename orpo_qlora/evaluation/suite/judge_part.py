"""Verdicts of a language model on every run against its base. Floor 5; no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from orpo_qlora.evaluation.answers.kept import Answer, Answers
from orpo_qlora.evaluation.answers.prompts import Prompt, PromptSet
from orpo_qlora.evaluation.judge import questions
from orpo_qlora.evaluation.judge.endpoint import Reply
from orpo_qlora.evaluation.judge.kept import ask_all, key_of
from orpo_qlora.evaluation.judge.length_control import controlled_win_rate
from orpo_qlora.evaluation.judge.questions import Chat, Turn
from orpo_qlora.evaluation.judge.settings import Estimate, JudgeSettings, Question, estimate
from orpo_qlora.evaluation.suite.figures import Figure, PerAnswer
from orpo_qlora.evaluation.suite.progress import Progress
from orpo_qlora.evaluation.suite.results import SuiteResults, System, answers_of

MEASURES: dict[Question, str] = {"preference": "judge_wins", "concise": "judge_concise"}
"""Measure of each question that compares two answers."""
FEWEST_CONTROLLED = 10
"""Comparisons from which the length-controlled win rate is fitted."""


@dataclass(frozen=True)
class Comparison:
    """Two answers to one prompt, asked in both orders."""

    system: str
    opponent: str
    number: int
    """Of the prompt."""
    difference: int
    """Length of the system's answer minus the opponent's, in characters."""
    orders: tuple[Chat, Chat]
    question: Question


@dataclass(frozen=True)
class Grading:
    """One answer to be graded."""

    system: str
    number: int
    chat: Chat


@dataclass
class Asked:
    """All questions of an evaluation."""

    comparisons: list[Comparison] = field(default_factory=list)
    gradings: list[Grading] = field(default_factory=list)

    @property
    def chats(self) -> list[Chat]:
        """Every question."""
        both = [chat for one in self.comparisons for chat in one.orders]
        return both + [one.chat for one in self.gradings]


@dataclass(frozen=True)
class JudgeFound:
    """Result of the judge part."""

    figures: tuple[Figure, ...]
    sentences: tuple[str, ...]


def measure_judge(settings: JudgeSettings, results: SuiteResults, progress: Progress) -> JudgeFound:
    """Ask everything that has no reply yet; raises what `ask_all` does."""
    asked = questions_of(settings, results)
    progress.start("asking the judge", len(asked.chats))
    replies = ask_all(asked.chats, settings, progress.at)
    return _found(settings, results.prompts, asked, replies)


def highest_estimate(
    settings: JudgeSettings, prompts: PromptSet, runs: int, answer_tokens: int
) -> Estimate:
    """Return what judging takes at most, before there are answers: all of the longest length."""
    longest = 4 * answer_tokens
    lengths: list[int] = []
    for prompt in prompts.prompts:
        text = len(prompt.whole_text)
        for question in settings.questions:
            if question == "grade":
                lengths += [text + longest] * (runs + 1) * len(prompt.questions)
            else:
                lengths += [text + 2 * longest] * 2 * runs
    return estimate(lengths, settings)


def questions_of(settings: JudgeSettings, results: SuiteResults) -> Asked:
    """Return all questions about the first answers of every model."""
    answers = {one.name: answers_of(one) for one in results.systems}
    asked = Asked()
    for question in settings.questions:
        for system in results.systems:
            if question == "grade":
                asked.gradings += _gradings(results.prompts, system, answers[system.name])
            elif system.opponent:
                asked.comparisons += _comparisons(results.prompts, system, answers, question)
    return asked


def _comparisons(
    prompts: PromptSet,
    system: System,
    answers: Mapping[str, Answers],
    question: Question,
) -> list[Comparison]:
    ours, theirs = answers[system.name], answers[system.opponent]
    found = []
    for number, prompt in enumerate(prompts.prompts):
        one, other = ours.get((prompt.key, 0)), theirs.get((prompt.key, 0))
        if one is None or other is None:
            continue
        texts = _conversation(prompt, one), _conversation(prompt, other)
        asks = prompt.whole_text
        is_concise = question == "concise"
        found.append(
            Comparison(
                system=system.name,
                opponent=system.opponent,
                number=number,
                difference=len(texts[0]) - len(texts[1]),
                orders=(
                    questions.preference(asks, *texts, concise=is_concise),
                    questions.preference(asks, *reversed(texts), concise=is_concise),
                ),
                question=question,
            )
        )
    return found


def _conversation(prompt: Prompt, answer: Answer) -> str:
    """Return an answer; of several turns, with the user's further messages between."""
    parts = [answer.texts[0]]
    for question, text in zip(prompt.followups, answer.texts[1:], strict=True):
        parts += [f"[The user then wrote:] {question}", text]
    return "\n\n".join(parts)


def _gradings(prompts: PromptSet, system: System, answers: Answers) -> list[Grading]:
    found = []
    for number, prompt in enumerate(prompts.prompts):
        answer = answers.get((prompt.key, 0))
        if answer is None:
            continue
        asks = (prompt.whole_text, *prompt.followups)
        turns = tuple(Turn(*pair) for pair in zip(asks, answer.texts, strict=True))
        for count in range(1, len(turns) + 1):
            has_reference = count <= len(prompt.references)
            reference = prompt.references[count - 1] if has_reference else ""
            chat = questions.grade(turns[:count], reference)
            found.append(Grading(system.name, number, chat))
    return found


def _found(
    settings: JudgeSettings,
    prompts: PromptSet,
    asked: Asked,
    replies: Mapping[str, Reply],
) -> JudgeFound:
    figures: list[Figure] = []
    unclear = 0
    pairs = dict.fromkeys((one.question, one.system, one.opponent) for one in asked.comparisons)
    for question, system, opponent in pairs:
        group = [
            one
            for one in asked.comparisons
            if (one.question, one.system, one.opponent) == (question, system, opponent)
        ]
        decided = [
            (one, outcome) for one in group if (outcome := _outcome(one, replies)) is not None
        ]
        unclear += len(group) - len(decided)
        figures += _win_figures(prompts, question, decided)
    for system in dict.fromkeys(one.system for one in asked.gradings):
        group_of_grades = [one for one in asked.gradings if one.system == system]
        grades = [
            (one.number, score)
            for one in group_of_grades
            if (score := questions.read_score(replies[key_of(one.chat)].text)) is not None
        ]
        unclear += len(group_of_grades) - len(grades)
        figures += _per_answer(prompts, "judge_grade", system, grades)
    return JudgeFound(tuple(figures), tuple(_sentences(settings, asked, replies, unclear)))


def _outcome(one: Comparison, replies: Mapping[str, Reply]) -> float | None:
    first, second = (questions.read_choice(replies[key_of(chat)].text) for chat in one.orders)
    return questions.outcome_of(first, second)


def _win_figures(
    prompts: PromptSet, question: Question, decided: Sequence[tuple[Comparison, float]]
) -> list[Figure]:
    if not decided:
        return []
    first = decided[0][0]
    values = [(one.number, outcome) for one, outcome in decided]
    figures = _per_answer(prompts, MEASURES[question], first.system, values, first.opponent)
    if question == "preference" and len(decided) >= FEWEST_CONTROLLED:
        outcomes = np.asarray([outcome for _, outcome in decided], dtype=np.float64)
        differences = np.asarray([one.difference for one, _ in decided], dtype=np.float64)
        figures.append(
            Figure(
                measure="judge_lc_wins",
                system=first.system,
                opponent=first.opponent,
                interval=controlled_win_rate(outcomes, differences),
                count=len(decided),
            )
        )
    return figures


def _per_answer(
    prompts: PromptSet,
    measure: str,
    system: str,
    values: Sequence[tuple[int, float]],
    opponent: str = "",
) -> list[Figure]:
    labels = np.asarray([number for number, _ in values], dtype=np.int64)
    numbers = np.asarray([value for _, value in values], dtype=np.float64)
    categories = [prompts.prompts[number].category for number in labels]
    return PerAnswer(measure, system, numbers, labels, categories, opponent).figures()


def _sentences(
    settings: JudgeSettings, asked: Asked, replies: Mapping[str, Reply], unclear: int
) -> list[str]:
    used = [replies[key] for key in {key_of(chat) for chat in asked.chats}]
    tokens_in, tokens_out = (
        sum(getattr(one, name) for one in used) for name in ("tokens_in", "tokens_out")
    )
    price = settings.price(tokens_in, tokens_out)
    cost = f", price {price:.2f}" if price else ""
    found = [
        f"Judge: {settings.model}, every comparison in both orders; a disagreement is a tie. "
        f"{len(used):,} replies, {tokens_in:,} tokens read, {tokens_out:,} written{cost}."
    ]
    undecided = [_outcome(one, replies) for one in asked.comparisons]
    ties = sum(one == 0.5 for one in undecided)
    if undecided:
        found.append(f"{ties:,} of {len(undecided):,} comparisons are ties or disagreements.")
    if unclear:
        found.append(f"{unclear:,} left out, because a reply has no verdict.")
    return found
