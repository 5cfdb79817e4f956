"""Diversity of answers by embeddings, distinct n-grams and self-BLEU. Floor 5; no torch.

The similarities are those of Hong et al. (2403.07691), eqs. 14 to 16: the mean cosine of the
embeddings of different answers, to one input (per input) or of the first answers to all inputs
(across inputs). A higher similarity is a lower diversity. Values under different embeddings, and
those of the paper, are not comparable.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from orpo_qlora.evaluation.statistics import Values, bootstrap
from orpo_qlora.evaluation.words import ngrams, words_of
from orpo_qlora.runs.curves.intervals import Interval

BLEU_ORDER = 4
SMALLEST_COUNT = 0.1
"""Matches of an n-gram order without any, as in method 1 of Chen and Cherry (2014)."""
BLEU_ANSWERS = 20
"""Most answers a prompt that self-BLEU compares."""

Embeddings = NDArray[np.float64]
"""One row per text, of length 1, shape (n, d)."""


def mean_similarity(embeddings: Embeddings) -> float:
    """Return the mean cosine of all pairs of different rows; at least two rows."""
    count = len(embeddings)
    total = embeddings.sum(axis=0)
    return float((total @ total - np.square(embeddings).sum()) / (count * (count - 1)))


def across_similarity(embeddings: Embeddings) -> Interval:
    """Return the mean cosine of the rows, one a prompt, with its bootstrap interval over prompts.

    A prompt that is drawn twice is not compared with itself.
    """
    squares = np.square(embeddings).sum(axis=1)

    def similarity(weights: Values) -> Values:
        pairs = np.square(weights @ embeddings).sum(axis=1) - np.square(weights) @ squares
        possible = np.square(weights.sum(axis=1)) - np.square(weights).sum(axis=1)
        # A draw of a single prompt, possible with two or three of them, has no pair.
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.where(possible > 0, pairs / possible, np.nan))

    return bootstrap(mean_similarity(embeddings), len(embeddings), similarity)


def distinct(texts: Sequence[str], count: int) -> float:
    """Return different over all n-grams of some texts together (Li et al., 1510.03055)."""
    found = [gram for text in texts for gram in ngrams(words_of(text), count)]
    return len(set(found)) / len(found) if found else 0.0


def self_bleu(texts: Sequence[str]) -> float:
    """Return the mean BLEU of each text against all others (Zhu et al., 1802.01886)."""
    words = [words_of(text) for text in texts[:BLEU_ANSWERS]]
    scores = [bleu(one, words[:at] + words[at + 1 :]) for at, one in enumerate(words)]
    return sum(scores) / len(scores)


def bleu(words: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return the BLEU of a text, 0 to 1: up to 4-grams, smoothed by `SMALLEST_COUNT`."""
    if not words:
        return 0.0
    logs = []
    for order in range(1, min(BLEU_ORDER, len(words)) + 1):
        counts = Counter(ngrams(words, order))
        most: Counter[tuple[str, ...]] = Counter()
        for reference in references:
            most |= Counter(ngrams(reference, order))
        matched = sum((counts & most).values())
        logs.append(math.log((matched or SMALLEST_COUNT) / sum(counts.values())))
    nearest = min((abs(len(one) - len(words)), len(one)) for one in references)[1]
    penalty = min(0.0, 1 - nearest / len(words))
    return math.exp(penalty + sum(logs) / len(logs))


def per_input(groups: Sequence[Embeddings]) -> Values:
    """Return the mean similarity of each prompt's answers, two or more of them."""
    return np.asarray([mean_similarity(group) for group in groups], dtype=np.float64)
