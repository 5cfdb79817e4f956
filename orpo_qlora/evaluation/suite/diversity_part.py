"""The diversity of every model's answers. Floor 5; no torch unless the embedder needs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from orpo_qlora.evaluation import diversity
from orpo_qlora.evaluation.answers.kept import Answers
from orpo_qlora.evaluation.answers.prompts import PromptSet
from orpo_qlora.evaluation.embeddings import Embed
from orpo_qlora.evaluation.statistics import Values
from orpo_qlora.evaluation.suite.figures import Figure, PerAnswer

FEW_SAMPLES = (
    "One answer a prompt: similarity per input, distinct n-grams and self-BLEU need at least two; "
    "five give useful intervals."
)
DIRECTION = "A higher similarity or self-BLEU means less diverse answers."


def answered_texts(prompts: PromptSet, answers: Answers, samples: int) -> dict[int, list[str]]:
    """Return the first turns of each prompt's answers by its number; empty answers left out."""
    found: dict[int, list[str]] = {}
    for number, prompt in enumerate(prompts.prompts):
        given = [answers.get((prompt.key, sample)) for sample in range(samples)]
        texts = [one.texts[0] for one in given if one is not None and one.texts[0].strip()]
        if texts:
            found[number] = texts
    return found


def diversity_figures(
    name: str, prompts: PromptSet, texts: Mapping[int, Sequence[str]], embed: Embed
) -> list[Figure]:
    """Return all figures of one model; those of several answers where there are several."""
    several = {number: found for number, found in texts.items() if len(found) > 1}
    figures = _across(name, prompts, texts, embed)
    if not several:
        return figures
    flat = embed([text for found in several.values() for text in found])
    ends = np.cumsum([len(found) for found in several.values()])[:-1]
    values = {
        "per_input": diversity.per_input(np.split(flat, ends)),
        "distinct_1": _each(several, lambda found: diversity.distinct(found, 1)),
        "distinct_2": _each(several, lambda found: diversity.distinct(found, 2)),
        "self_bleu": _each(several, diversity.self_bleu),
    }
    labels = np.asarray(list(several), dtype=np.int64)
    categories = [prompts.prompts[number].category for number in several]
    return figures + [
        figure
        for measure, numbers in values.items()
        for figure in PerAnswer(measure, name, numbers, labels, categories).figures()
    ]


def _each(texts: Mapping[int, Sequence[str]], measure: Callable[[Sequence[str]], float]) -> Values:
    return np.asarray([measure(found) for found in texts.values()], dtype=np.float64)


def _across(
    name: str, prompts: PromptSet, texts: Mapping[int, Sequence[str]], embed: Embed
) -> list[Figure]:
    """Return the similarity of the first answers to different prompts, and by category."""
    numbers = list(texts)
    if len(numbers) < 2:
        return []
    rows = embed([texts[number][0] for number in numbers])
    categories = [prompts.prompts[number].category for number in numbers]
    figures = []
    for category in ("", *dict.fromkeys(filter(None, categories))):
        kept = [at for at, one in enumerate(categories) if category in ("", one)]
        if len(kept) > 1:
            figures.append(
                Figure(
                    measure="across_input",
                    system=name,
                    category=category,
                    interval=diversity.across_similarity(rows[kept]),
                    count=len(kept),
                )
            )
    return figures
