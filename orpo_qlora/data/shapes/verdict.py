"""Two responses and a verdict: which one is better differs by row. Floor 1; no torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from orpo_qlora.data.messages import Message
from orpo_qlora.data.readers.rows import Row
from orpo_qlora.data.shapes.base import Head, Preference, RowFaultError, Shape, plain_name
from orpo_qlora.data.shapes.cells import is_message_list, text_of, turns_of, unpacked
from orpo_qlora.data.shapes.prompts import PromptColumns, find_prompt
from orpo_qlora.data.shapes.turns import join, with_system
from orpo_qlora.errors import DataError

_STEMS = (
    "response", "answer", "completion", "output", "conversation", "human_ref", "generation",
    "reply", "candidate", "text", "summary", "message", "messages", "comment", "option",
    "model_output", "assistant", "result", "continuation", "model_response",
)  # fmt: skip
_SUFFIXES = (("1", "2"), ("a", "b"), ("0", "1"), ("left", "right"), ("first", "second"))
_VERDICTS = (
    "preference_strength", "overall_preference", "preference", "preferred", "winner",
    "better_response_id", "better_response", "preferred_response", "preferred_answer", "better",
    "verdict", "human_preference", "preferred_output", "vote", "choice", "labels", "label",
    "chosen", "judgement", "judgment", "preference_responses", "preference_label", "result",
)  # fmt: skip
_BOOLEANS = (
    "{end}_is_better", "is_{end}_better", "{end}_better", "{end}_wins", "{end}_won",
    "{end}_is_preferred", "is_{end}_preferred", "{end}_preferred", "prefer_{end}", "prefers_{end}",
    "{end}_is_chosen", "{end}_is_best",
)  # fmt: skip
"""Columns that are true where one of the two responses is the better one."""
_SCORES = ("score", "rating", "reward", "scores", "ratings")
_TIES = {
    "tie", "ties", "tied", "draw", "equal", "same", "both", "both good", "both bad", "bothbad",
    "tie (bothbad)", "tie (both bad)", "neither", "a=b", "no preference", "none",
}  # fmt: skip
_NAMED = ("model", "response", "answer", "assistant", "completion", "output", "option")
_ORDER = re.compile(r"(\w+)\s*(>+|<+)\s*(\w+)")
FIRST, SECOND, TIE, UNCLEAR = "first", "second", "tie", "unclear"
_Reader = Callable[[Row], str]


@dataclass(frozen=True)
class _Two:
    """The columns of the two responses."""

    first: int
    second: int
    stem: str
    suffixes: tuple[str, str]


class TwoAnswers(Shape):
    """Rows with two responses and a verdict."""

    name = "two answers and a verdict"

    def __init__(self, head: Head, two: _Two, verdict: _Verdict) -> None:
        self._two, self._verdict = two, verdict
        taken = [two.first, two.second, *verdict.indices]
        first = head.columns[two.first]
        is_whole = head.most(two.first, _is_conversation)
        self._prompt = PromptColumns(None) if is_whole else find_prompt(head, taken)
        indices = sorted({*taken, *self._prompt.indices()})
        self.used = tuple(head.columns[index] for index in indices)
        self.notes = (
            f"Two responses, “{first}” and “{head.columns[two.second]}”; {verdict.meaning}.",
        )

    def preferences(self, row: Row) -> Sequence[Preference]:
        """Return the preference that the verdict of a row states."""
        side = self._verdict.read(row)
        if side in {TIE, UNCLEAR}:
            raise RowFaultError(
                "tie" if side == TIE else "unclear-verdict", self._verdict.shown(row)
            )
        first, second = (row.cells[index] for index in (self._two.first, self._two.second))
        good, bad = (first, second) if side == FIRST else (second, first)
        prompt = self._prompt.prompt
        if prompt is not None and _is_text_list(row.cells[prompt]):
            asked = row.cells[prompt]
            preference = join(_interleaved(asked, good), _interleaved(asked, bad))
        else:
            before = self._prompt.turns(row)
            preference = join(turns_of(good, "assistant"), turns_of(bad, "assistant"), before)
        return [with_system(preference, self._prompt.system_text(row))]


@dataclass(frozen=True)
class _Verdict:
    """The columns that say which response is better, and how they are read."""

    indices: tuple[int, ...]
    read: _Reader
    meaning: str

    def shown(self, row: Row) -> str:
        """Return the verdict of a row as an example."""
        return ", ".join(f"{row.cells[index]}" for index in self.indices)[:200]


def recognise(head: Head) -> Shape | None:
    """Return the shape of a file with two responses and a verdict, else None.

    Raises:
        DataError: the verdict is a number that can be read in two ways.
    """
    two = _find_two(head)
    if two is None:
        return None
    readings = (_one_hot, _boolean, _from_verdict, _from_scores)
    verdict = next((found for read in readings if (found := read(head, two))), None)
    return None if verdict is None else TwoAnswers(head, two, verdict)


def _find_two(head: Head) -> _Two | None:
    for stem in _STEMS:
        for suffixes in _SUFFIXES:
            for form in ("{stem}_{end}", "{stem}{end}", "{end}_{stem}", "{stem}_model_{end}"):
                names = [form.format(stem=stem, end=end) for end in suffixes]
                first, second = (head.find(name) for name in names)
                if first is None or second is None:
                    continue
                if head.most(first, _is_answer) and head.most(second, _is_answer):
                    return _Two(first, second, stem, suffixes)
    return None


def _is_answer(cell: object) -> bool:
    return isinstance(cell, dict | list | str)


def _is_conversation(cell: object) -> bool:
    value = unpacked(cell)
    return is_message_list(value) and isinstance(value, list) and len(value) > 1


def _one_hot(head: Head, two: _Two) -> _Verdict | None:
    first, second = (
        head.find(*(f"{lead}{end}" for lead in ("winner_model_", "winner_", "winner_response_")))
        for end in two.suffixes
    )
    tie = head.find("winner_tie", "tie", "winner_both")
    if first is None or second is None:
        return None

    def read(row: Row) -> str:
        won = [_is_yes(row.cells[index]) for index in (first, second)]
        if won[0] != won[1]:
            return FIRST if won[0] else SECOND
        return TIE if won[0] or (tie is not None and _is_yes(row.cells[tie])) else UNCLEAR

    indices = tuple(index for index in (first, second, tie) if index is not None)
    return _Verdict(indices, read, "one column of 0 and 1 for each outcome")


def _boolean(head: Head, two: _Two) -> _Verdict | None:
    """Return a verdict that is true or false of one response, or of each of the two."""
    ends = zip(two.suffixes, ("first", "second"), strict=True)
    found = [_boolean_column(head, two, end, place) for end, place in ends]
    indices = tuple(index for index in found if index is not None)
    if not indices:
        return None

    def read(row: Row) -> str:
        first, second = (None if index is None else _truth(row.cells[index]) for index in found)
        if found[0] is None and second is not None:
            first = not second
        if found[1] is None and first is not None:
            second = not first
        if first is None or second is None:
            return UNCLEAR
        return TIE if first == second else FIRST if first else SECOND

    names = " and ".join(f"“{head.columns[index]}”" for index in indices)
    return _Verdict(indices, read, f"{names} {'is' if len(indices) == 1 else 'are'} true or false")


def _boolean_column(head: Head, two: _Two, end: str, place: str) -> int | None:
    sides = (end, f"{two.stem}_{end}", f"{two.stem}{end}", f"model_{end}", place)
    index = head.find(*(form.format(end=side) for side in sides for form in _BOOLEANS))
    is_boolean = head.most(index, lambda cell: _truth(cell) is not None)
    return index if is_boolean else None


def _truth(cell: object) -> bool | None:
    """Return a cell as true or false, None if it is neither."""
    if _is_yes(cell):
        return True
    return False if str(cell).strip().casefold() in {"0", "0.0", "false", "no"} else None


def _is_yes(cell: object) -> bool:
    return cell is True or str(cell).strip().casefold() in {"1", "1.0", "true", "yes"}


def _from_scores(head: Head, two: _Two) -> _Verdict | None:
    for name in _SCORES:
        ends = [
            (f"{name}_{end}", f"{name}{end}", f"{two.stem}_{end}_{name}") for end in two.suffixes
        ]
        first, second = (head.find(*names) for names in ends)
        if first is not None and second is not None and head.most(first, _is_number):
            return _Verdict(
                (first, second),
                lambda row, a=first, b=second: _compared(row.cells[a], row.cells[b]),  # type: ignore[misc]
                f"the higher of “{head.columns[first]}” and “{head.columns[second]}” is chosen",
            )
    return None


def _compared(first: object, second: object) -> str:
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


def _is_number(cell: object) -> bool:
    return number_of(cell) is not None


def _from_verdict(head: Head, two: _Two) -> _Verdict | None:
    for name in _VERDICTS:
        index = head.find(name)
        if index is None or index in (two.first, two.second) or not head.cells(index):
            continue
        values = [_plain(cell) for cell in head.cells(index)]
        words = _words(head, two)
        if sum(value in words or _side_of(value, words) != UNCLEAR for value in values) * 2 > len(
            values
        ):
            return _worded(head, index, words)
        if all(map(_is_number, values)):
            return _numbered(head, two, name, index)
        return _by_model(head, two, index) or _refuse(head, two, index)
    return None


def _by_model(head: Head, two: _Two, index: int) -> _Verdict | None:
    """Return a verdict that names the model of the better response."""
    first, second = (head.find(f"model_{end}", f"model{end}") for end in two.suffixes)
    if first is None or second is None:
        return None

    def read(row: Row) -> str:
        winner, names = row.cells[index], (row.cells[first], row.cells[second])
        if winner in names and names[0] != names[1]:
            return FIRST if winner == names[0] else SECOND
        return TIE if _plain(winner) in _TIES else UNCLEAR

    if all(read(row) == UNCLEAR for row in head.rows if not row.fault):
        return None
    return _Verdict((index,), read, f"“{head.columns[index]}” names the model of the chosen one")


def _refuse(head: Head, two: _Two, index: int) -> NoReturn:
    names = f"“{head.columns[two.first]}” or “{head.columns[two.second]}”"
    column, example = head.columns[index], str(head.cells(index)[0])[:40]
    raise DataError(
        f"“{column}” does not show whether {names} is better: it holds “{example}”.",
        where=f"column “{column}”",
        hint="Write the name of the better column into it, or “tie”.",
    )


def _plain(cell: object) -> str:
    value = unpacked(cell)
    # Argilla's export has lists of {"value": …}.
    while isinstance(value, list) and value:
        value = value[0]
    if isinstance(value, dict):
        value = value.get("value", "")
    return " ".join(str(value).casefold().strip(" \t\r\n\"'[]").split())


def _words(head: Head, two: _Two) -> dict[str, str]:
    """Return the texts that name one of the two responses."""
    words: dict[str, str] = dict.fromkeys(_TIES, TIE)
    for side, index, end in zip(
        (FIRST, SECOND), (two.first, two.second), two.suffixes, strict=True
    ):
        names = [head.columns[index].casefold(), plain_name(head.columns[index])]
        names += [
            f"{stem}{gap}{end}" for stem in (*_NAMED, two.stem) for gap in ("_", " ", "-", "")
        ]
        names += [] if end.isdigit() else [end]
        words |= dict.fromkeys(names, side)
    for side, names in ((FIRST, ["left", "first", "a"]), (SECOND, ["right", "second", "b"])):
        words |= {name: side for name in names if name not in words}
    return words


def _side_of(value: str, words: dict[str, str]) -> str:
    """Return the outcome that a text names, also as “A>B”."""
    if value in words:
        return words[value]
    order = _ORDER.fullmatch(value)
    if order is None:
        return UNCLEAR
    better = order[1] if order[2].startswith(">") else order[3]
    return words.get(better, UNCLEAR)


def _worded(head: Head, index: int, words: dict[str, str]) -> _Verdict:
    return _Verdict(
        (index,),
        lambda row: _side_of(_plain(row.cells[index]), words),
        f"“{head.columns[index]}” names the chosen one",
    )


def _numbered(head: Head, two: _Two, name: str, index: int) -> _Verdict:
    column = head.columns[index]
    values = {number_of(_plain(cell)) for cell in head.cells(index)}
    if "strength" in name or name == "overall_preference" or min(map(_zero, values)) < 0:

        def signed(row: Row) -> str:
            number = number_of(_plain(row.cells[index]))
            return UNCLEAR if number is None else _compared(0.0, number)

        meaning = f"a negative “{column}” chooses the first, a positive one the second, 0 is a tie"
        return _Verdict((index,), signed, meaning)
    table = _numbers(head, two, name, values, column)

    def read(row: Row) -> str:
        number = number_of(_plain(row.cells[index]))
        return UNCLEAR if number is None else table.get(number, UNCLEAR)

    meanings = ", ".join(f"{number:g} is {side}" for number, side in sorted(table.items()))
    return _Verdict((index,), read, f"in “{column}” {meanings}")


def _zero(number: float | None) -> float:
    return number or 0.0


def _numbers(
    head: Head, two: _Two, name: str, values: Iterable[float | None], column: str
) -> dict[float, str]:
    """Return what each number of a verdict means, decided from all numbers in the head."""
    found = set(values)
    if two.stem == "human_ref":
        # Stanford Human Preferences: the label is 1 where A is preferred.
        return {1.0: FIRST, 0.0: SECOND}
    if two.suffixes == ("0", "1"):
        return {0.0: FIRST, 1.0: SECOND, 2.0: TIE}
    if found <= {1.0, 2.0, 3.0} and (2.0 in found or two.suffixes == ("1", "2")):
        return {1.0: FIRST, 2.0: SECOND, 3.0: TIE, 0.0: TIE}
    if found == {0.0, 1.0, 2.0} and two.suffixes == ("1", "2"):
        return {0.0: TIE, 1.0: FIRST, 2.0: SECOND}
    if found == {0.0, 1.0} or found == {0.0}:
        return {0.0: FIRST, 1.0: SECOND, 2.0: TIE}
    numbers = ", ".join(f"{number:g}" for number in sorted(_zero(one) for one in found))
    raise DataError(
        f"“{column}” holds {numbers}, which does not show which of “{head.columns[two.first]}” "
        f"and “{head.columns[two.second]}” is better.",
        where=f"column “{column}”",
        hint="Replace the numbers by the names of the columns, and by “tie”.",
    )


def _is_text_list(cell: object) -> bool:
    value = unpacked(cell)
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)


def _interleaved(prompts: object, answers: object) -> list[Message]:
    """Return parallel lists of prompts and responses, one per round, as turns."""
    asked, given = unpacked(prompts), unpacked(answers)
    if not isinstance(asked, list) or not isinstance(given, list) or len(asked) != len(given):
        raise RowFaultError("bad-turns", "prompts and responses differ in number")
    return [
        message
        for prompt, answer in zip(asked, given, strict=True)
        for message in (Message("user", text_of(prompt)), Message("assistant", text_of(answer)))
    ]
