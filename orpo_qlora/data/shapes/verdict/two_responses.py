"""Two columns whose names differ only in which response they hold, such as a and b. Floor 1."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from orpo_qlora.data.column_names import words_of
from orpo_qlora.data.shapes.base import Head

ENDS = (
    ("1", "2"), ("a", "b"), ("0", "1"), ("left", "right"), ("first", "second"), ("one", "two"),
)  # fmt: skip
"""What tells the two apart, the first response in front."""
STEMS = (
    "response", "answer", "completion", "output", "conversation", "ref", "generation",
    "reply", "candidate", "text", "summary", "message", "messages", "comment", "option",
    "assistant", "result", "continuation",
)  # fmt: skip
"""What two columns of responses are called, the likeliest first."""
_OTHERS = {
    "score", "scores", "rating", "ratings", "reward", "rank", "id", "ids", "source", "tokens",
    "token", "length", "len", "time", "timestamp", "safe", "safety", "winner", "better", "utc",
    "category", "severity", "prob", "probability", "logprob", "quotes", "url", "name", "type",
    "prompt", "question", "instruction", "reason", "rationale", "explanation", "feedback", "turn",
    "sha", "hash", "label", "path", "lang", "language", "embedding", "count", "words", "is",
    "preferred", "wins", "won", "chosen", "best", "metadata", "critique",
}  # fmt: skip
"""Words in the names of columns that say something about a response and do not hold it."""
_MORE = {"0", "1", "2", "3", "4", "c", "d", "e", "third", "fourth", "three", "four"}


@dataclass(frozen=True)
class Two:
    """The columns of two responses."""

    first: int
    second: int
    stem: str
    """What both names have in common, words joined by underscores."""
    ends: tuple[str, str]


def find_twos(head: Head) -> Iterator[Two]:
    """Yield the pairs of columns that may hold two responses, the likeliest first."""
    names = [words_of(column) for column in head.columns]
    found = [
        two
        for (first, one), (second, other) in combinations(enumerate(names), 2)
        if (two := _two(head, (first, one), (second, other))) is not None
        and not _has_more(names, two)
        and all(
            head.most(index, _is_text if is_known(two) else _is_prose)
            for index in (two.first, two.second)
        )
    ]
    # “response” before “response_sha”: the shorter name holds the response itself.
    yield from sorted(found, key=lambda two: (_place(two.stem), two.stem.count("_")))


def is_known(two: Two) -> bool:
    """Return whether the name says that the columns hold responses."""
    return _place(two.stem) < len(STEMS)


def two_of(head: Head, first: int, second: int) -> Two:
    """Return two columns that the user chose."""
    pair = [(index, words_of(head.columns[index])) for index in (first, second)]
    two = _two(head, *pair) if first < second else None
    return two or Two(first, second, "", ("first", "second"))


def _two(head: Head, one: tuple[int, list[str]], other: tuple[int, list[str]]) -> Two | None:
    (first, names), (second, others) = one, other
    if len(names) != len(others):
        return None
    differing = [pair for pair in zip(names, others, strict=True) if pair[0] != pair[1]]
    stem = [name for name, twin in zip(names, others, strict=True) if name == twin]
    if len(differing) != 1 or _OTHERS & set(stem):
        return None
    if {"model", "models"} & set(stem) and not set(STEMS) & set(stem):
        return None  # names of models, not what they answered
    if differing[0] in ENDS:
        return Two(first, second, "_".join(stem), differing[0])
    if differing[0][::-1] in ENDS:
        return Two(second, first, "_".join(stem), differing[0][::-1])
    return None


def _has_more(names: list[list[str]], two: Two) -> bool:
    """Return whether there is a third column of the kind: then it is a ranking."""
    known = names[two.first]
    place = next(at for at, name in enumerate(known) if name == two.ends[0])
    return any(
        len(other) == len(known)
        and other[place] in _MORE - set(two.ends)
        and other[:place] == known[:place]
        and other[place + 1 :] == known[place + 1 :]
        for other in names
    )


def _place(stem: str) -> int:
    parts = stem.split("_")
    places = [place for place, name in enumerate(STEMS) if name in parts]
    if places:
        return min(places)
    return len(STEMS) if stem else len(STEMS) + 1


def _is_text(cell: object) -> bool:
    return isinstance(cell, dict | list | str)


def _is_prose(cell: object) -> bool:
    """Return whether a cell of a column with an unknown name may be a response: no number or id."""
    if isinstance(cell, str):
        return len(cell.split()) > 1
    return isinstance(cell, dict | list)
