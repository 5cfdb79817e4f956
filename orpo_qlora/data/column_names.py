"""What a column's name says: one spelling for all, and words for a good or a bad response. Floor 1.

No torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_SEPARATORS = re.compile(r"[\s\-./]+")
_HUMPS = re.compile(r"(?<=[a-z0-9])(?=[A-Z][a-z]|[A-Z]$)|(?<=[a-z])(?=[A-Z])")
_PARTS = re.compile(r"[^\W\d_]+|\d+")
_BYTE_ORDER_MARK = "\ufeff"
_RESPONSES = {
    "response", "answer", "completion", "output", "text", "message", "messages", "reply",
    "generation", "summary", "conversation", "dialogue", "candidate", "sample", "content",
    "continuation", "translation", "solution", "comment", "assistant", "result", "code",
}  # fmt: skip
_GOOD = {
    "chosen", "preferred", "more preferred", "accepted", "better", "best", "good", "positive",
    "pos", "winning", "winner", "win", "favored", "favoured", "liked", "upvoted", "desired",
    "desirable",
}  # fmt: skip
_BAD = {
    "rejected", "dispreferred", "non preferred", "nonpreferred", "not preferred", "unpreferred",
    "less preferred", "non chosen", "not chosen", "unchosen", "declined", "worse", "worst", "bad",
    "negative", "neg", "losing", "loser", "lose", "disfavored", "disfavoured", "disliked",
    "downvoted", "undesired", "undesirable",
}  # fmt: skip
# Alone these are as likely a number or a truth value about a response.
_GOOD_BESIDE_NOUN = {"correct", "safe", "selected", "right"}
_BAD_BESIDE_NOUN = {"incorrect", "wrong", "unsafe", "unselected"}


def plain_name(column: str) -> str:
    """Return a name in lower case with underscores: “Chosen Response” is “chosen_response”.

    Spaces, hyphens, dots, slashes and the humps of “chosenResponse” separate words. Files joined by
    a program carry byte order marks in the middle of the text.
    """
    name = _HUMPS.sub("_", column.replace(_BYTE_ORDER_MARK, "").strip())
    return _SEPARATORS.sub("_", name.casefold())


def words_of(column: str) -> list[str]:
    """Return the words of a column name in lower case: “responseA_text” is response, a, text."""
    return _PARTS.findall(plain_name(column))


def good_and_bad(columns: Sequence[str]) -> dict[str, str]:
    """Return the one column for chosen and the one for rejected whose words say so, by part.

    Such as “preferred_completion” and “non_preferred_completion”. Empty unless there is exactly
    one of each; only the rejected one where no name says that a response is good.
    """
    good = [column for column in columns if _is_named(column, _GOOD, _GOOD_BESIDE_NOUN)]
    bad = [column for column in columns if _is_named(column, _BAD, _BAD_BESIDE_NOUN)]
    if len(bad) == 1 and not good:
        return {"rejected": bad[0]}
    if len(good) != 1 or len(bad) != 1:
        return {}
    return {"chosen": good[0], "rejected": bad[0]}


def about_responses(columns: Sequence[str]) -> list[str]:
    """Return the columns whose names have a word for a response, such as “winner_response”."""
    return [
        column
        for column in columns
        if any(word.removesuffix("s") in _RESPONSES for word in words_of(column))
    ]


def _is_named(column: str, names: set[str], beside_noun: set[str]) -> bool:
    words = words_of(column)
    rest = " ".join(word for word in words if word.removesuffix("s") not in _RESPONSES)
    return rest in names or (rest in beside_noun and len(words) > len(rest.split()))
