"""What the answers show by themselves: length, ends, repetition. Floor 5; no torch."""

from __future__ import annotations

import numpy as np

from orpo_qlora.evaluation.answers.kept import Answer, Answers
from orpo_qlora.evaluation.answers.prompts import PromptSet
from orpo_qlora.evaluation.suite.figures import Figure, PerAnswer
from orpo_qlora.evaluation.words import ngrams, words_of

REPEATED = 4
"""Words of an n-gram that counts as repeated."""


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
