"""Words and n-grams of answers. Floor 5; no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORD = re.compile(r"\w+|[^\w\s]")


def words_of(text: str) -> list[str]:
    """Return the words and punctuation marks of a text in lower case."""
    return _WORD.findall(text.lower())


def ngrams(words: Sequence[str], count: int) -> list[tuple[str, ...]]:
    """Return the n-grams of a text in order; nothing if it is shorter."""
    return [tuple(words[start : start + count]) for start in range(len(words) - count + 1)]
