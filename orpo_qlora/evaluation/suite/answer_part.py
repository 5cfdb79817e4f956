"""What the answers show by themselves: length, ends, repetition. Floor 5; no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from orpo_qlora.evaluation.answers.kept import Answer
from orpo_qlora.evaluation.answers.prompts import PromptSet
from orpo_qlora.evaluation.suite.figures import Figure, PerAnswer

REPEATED = 4
"""Words of an n-gram that counts as repeated."""
_WORD = re.compile(r"\w+|[^\w\s]")

Answers = Mapping[tuple[str, int], Answer]


def words_of(text: str) -> list[str]:
    """Return the words and punctuation marks of a text in lower case."""
    return _WORD.findall(text.lower())


def ngrams(words: Sequence[str], count: int) -> list[tuple[str, ...]]:
    """Return the n-grams of a text in order; nothing if it is shorter."""
    return [tuple(words[start : start + count]) for start in range(len(words) - count + 1)]


def repetition(text: str) -> float:
    """Return 1 minus different over all 4-grams of a text; 0 for a text of fewer words."""
    found = ngrams(words_of(text), REPEATED)
    return 1 - len(set(found)) / len(found) if found else 0.0


def ordered_answers(prompts: PromptSet, answers: Answers, samples: int) -> list[tuple[int, Answer]]:
    """Return number of the prompt and answer, by prompt and sample, of those that are there."""
    return [
        (number, answers[prompt.key, sample])
        for number, prompt in enumerate(prompts.prompts)
        for sample in range(samples)
        if (prompt.key, sample) in answers
    ]


def answer_figures(name: str, prompts: PromptSet, answers: Answers, samples: int) -> list[Figure]:
    """Return length, ends, empty answers and repetition of a model, every turn counted."""
    turns = [
        (number, text, tokens, ended)
        for number, answer in ordered_answers(prompts, answers, samples)
        for text, tokens, ended in zip(answer.texts, answer.tokens, answer.ended, strict=True)
    ]
    values = {
        "length": [float(tokens) for _, _, tokens, _ in turns],
        "ended": [float(ended) for _, _, _, ended in turns],
        "empty": [float(not text.strip()) for _, text, _, _ in turns],
        "repetition": [repetition(text) for _, text, _, _ in turns],
    }
    labels = np.asarray([number for number, *_ in turns], dtype=np.int64)
    categories = [prompts.prompts[number].category for number in labels]
    return [
        figure
        for measure, numbers in values.items()
        for figure in PerAnswer(
            measure, name, np.asarray(numbers, dtype=np.float64), labels, categories
        ).figures()
    ]
