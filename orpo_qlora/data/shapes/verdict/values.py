"""The values of a verdict: numbers, ties, and what names one of two responses. Floor 1."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from orpo_qlora.data.column_names import plain_name
from orpo_qlora.data.readers.rows import Row
from orpo_qlora.data.shapes.base import Head
from orpo_qlora.data.shapes.content.cells import unpacked
from orpo_qlora.data.shapes.verdict.two_responses import Two

_TIES = {
    "tie", "ties", "tied", "draw", "equal", "same", "both", "both good", "both bad", "bothbad",
    "tie (bothbad)", "tie (both bad)", "bothgood", "both are good", "both are bad", "neither",
    "a=b", "no preference", "none", "c", "平局", "平", "about the same", "roughly the same",
    "the same", "equally good", "equally bad", "about equal", "no winner", "no clear winner",
    "undecided",
}  # fmt: skip
GOOD_LABELS = {
    "true", "1", "1.0", "good", "positive", "desirable", "chosen", "up", "yes", "thumbs_up", "like",
    "preferred", "accepted", "better", "best", "winner", "won", "correct", "👍",
}  # fmt: skip
BAD_LABELS = {
    "false", "0", "0.0", "-1", "-1.0", "bad", "negative", "undesirable", "rejected", "down", "no",
    "thumbs_down", "dislike", "dispreferred", "non_preferred", "nonpreferred", "not_preferred",
    "unpreferred", "not_chosen", "worse", "worst", "loser", "lost", "incorrect", "wrong", "👎",
}  # fmt: skip
"""Words, numbers and truth values of a label for one response."""
_DEGREE = r"(?:(?:strongly|slightly|clearly|much|far|significantly|marginally|somewhat|the|a lot|a bit|a little|moderately|definitely) )*"  # noqa: E501
_IS_BETTER = re.compile(
    rf"(.+?) (?:(?:is|was) )?{_DEGREE}(?:better|best|preferred|stronger|winner|wins?|won)"
    r"(?: (?:than|over|to) .+)?"
)
_PREFERS = re.compile(rf"(?:(?:i|we) )?{_DEGREE}(?:prefers?|preferred|chose|choose) (.+?)")
_DEGREE_ONLY = re.compile(r"(?:strongly|slightly|clearly|much|significantly|marginally) (.+)")
"""Verdicts in words, such as “A is slightly better” and “strongly prefer response 2”."""
_NAMED = ("model", "response", "answer", "assistant", "completion", "output", "option")
_ORDER = re.compile(r"((?:\w+ )?\w+)\s*(>+|<+)\s*((?:\w+ )?\w+)")
FIRST, SECOND, TIE, UNCLEAR = "first", "second", "tie", "unclear"
Reader = Callable[[Row], str]


@dataclass(frozen=True)
class Verdict:
    """The columns that say which response is better, and how they are read."""

    indices: tuple[int, ...]
    read: Reader
    """FIRST, SECOND, TIE or UNCLEAR."""
    meaning: str

    def shown(self, row: Row) -> str:
        """Return the verdict of a row as an example."""
        return ", ".join(f"{row.cells[index]}" for index in self.indices)[:200]


def names_a_side(head: Head, two: Two) -> Callable[[object], bool]:
    """Return the test whether a cell names one of two responses, or the model of one."""
    words = words_for(head, two)
    models = {
        cell
        for end in two.ends
        if (index := model_column(head, two, end)) is not None
        for cell in head.cells(index)
        if isinstance(cell, str)
    }

    def names(cell: object) -> bool:
        return plain_text(cell) in words or (isinstance(cell, str) and cell in models)

    return names


def model_column(head: Head, two: Two, end: str) -> int | None:
    """Return the column with the name of the model that wrote a response."""
    stem = two.stem
    return head.find(
        *(f"model_{end}", f"model{end}", f"{end}_model", f"model_name_{end}", f"source_{end}"),
        *(
            f"{stem}_{end}_model",
            f"{stem}_model_{end}",
            f"{stem}_{end}_source",
            f"{stem}{end}_model",
        ),
    )


def compared(first: object, second: object) -> str:
    """Return which of two numbers is higher, as a side."""
    one, other = number_of(first), number_of(second)
    if one is None or other is None:
        return UNCLEAR
    return TIE if one == other else FIRST if one > other else SECOND


def number_of(cell: object) -> float | None:
    """Return a cell as a number, None if it is none."""
    if isinstance(cell, bool) or cell is None:
        return None
    try:
        number = float(str(cell).strip())
    except ValueError:
        return None
    return number if abs(number) < float("inf") else None


def label_of(cell: object) -> bool | None:
    """Return a label as good or bad, None for anything else: “Non-preferred” is bad."""
    text = str(cell).strip()
    plain = text if number_of(text) is not None else plain_name(text)
    return True if plain in GOOD_LABELS else False if plain in BAD_LABELS else None


def is_number(cell: object) -> bool:
    """Return whether a cell is a number, also as text."""
    return number_of(cell) is not None


def plain_text(cell: object) -> str:
    """Return a verdict as text in lower case, without quotes and brackets."""
    value = unpacked(cell)
    # Argilla's export has lists of {"value": …}.
    while isinstance(value, list) and value:
        value = value[0]
    if isinstance(value, dict):
        value = _in_annotation(value)
    if value is None:
        return ""
    return " ".join(str(value).casefold().strip(" \t\r\n\"'[]").split())


def _in_annotation(value: object) -> object:
    """Return what an annotation says: `{"value": …}`, or Label Studio's nested results."""
    while isinstance(value, dict | list) and value:
        if isinstance(value, list):
            value = value[0]
            continue
        keys = ("value", "result", "selected", "choices", "choice")
        value = next((value[key] for key in keys if key in value), "")
    return "" if isinstance(value, dict | list) else value


def is_tie(value: str) -> bool:
    """Return whether a text says that neither response is better."""
    return " ".join(re.split(r"[\s_-]+", value)) in _TIES


def words_for(head: Head, two: Two) -> dict[str, str]:
    """Return the texts that name one of the two responses."""
    words: dict[str, str] = {}
    for side, index, end in zip((FIRST, SECOND), (two.first, two.second), two.ends, strict=True):
        names = [head.columns[index].casefold(), plain_name(head.columns[index])]
        names += [
            f"{stem}{gap}{end}" for stem in (*_NAMED, two.stem) for gap in ("_", " ", "-", "")
        ]
        names += [] if end.isdigit() else [end]
        words |= dict.fromkeys(names, side)
    for side, names in ((FIRST, ["left", "first", "a"]), (SECOND, ["right", "second", "b"])):
        words |= {name: side for name in names if name not in words}
    return words


def side_of(value: str, words: dict[str, str]) -> str:
    """Return the outcome that a text names, also as “A>B”."""
    if value in words:
        return words[value]
    if is_tie(value):
        return TIE
    order = _ORDER.fullmatch(value)
    if order is None:
        return _side_of_phrase(value, words)
    better = order[1] if order[2].startswith(">") else order[3]
    return _named(better, words)


def _named(name: str, words: dict[str, str]) -> str:
    """Return the side of a name, also of a number that stands for a response in a phrase."""
    return words.get(name, words.get(f"response {name}", UNCLEAR))


def _side_of_phrase(value: str, words: dict[str, str]) -> str:
    """Return the outcome of a phrase such as “A (slightly better)”, “a_better” or “prefer_b”."""
    text = " ".join(re.sub(r"[_()\[\],:]+", " ", value.rstrip(".!")).split())
    for pattern in (_IS_BETTER, _PREFERS, _DEGREE_ONLY):
        phrase = pattern.fullmatch(text)
        name = phrase[1].removeprefix("the ") if phrase else ""
        if _named(name, words) != UNCLEAR:
            return _named(name, words)
    return UNCLEAR
