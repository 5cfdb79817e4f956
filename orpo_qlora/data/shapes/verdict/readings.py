"""How a row says which of two responses is better: words, numbers, scores, true or false. Floor 1.

A column that can be read in two ways is never read: the error names the way to decide.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NoReturn

from orpo_qlora.data.column_names import plain_name, words_of
from orpo_qlora.data.columns import ColumnMapping
from orpo_qlora.data.readers.rows import Row
from orpo_qlora.data.shapes.base import Head
from orpo_qlora.data.shapes.content.cells import unpacked
from orpo_qlora.data.shapes.content.prompts import find_prompt
from orpo_qlora.data.shapes.ranked_by import number_in
from orpo_qlora.data.shapes.verdict.two_responses import Two
from orpo_qlora.data.shapes.verdict.values import (
    FIRST,
    SECOND,
    TIE,
    UNCLEAR,
    Verdict,
    compared,
    is_number,
    is_tie,
    model_column,
    number_of,
    plain_text,
    side_of,
    words_for,
)
from orpo_qlora.errors import NeedsColumns

_VERDICTS = (
    "preference_strength", "overall_preference", "preference", "preferred", "winner",
    "better_response_id", "better_response", "preferred_response", "preferred_answer", "better",
    "verdict", "human_preference", "preferred_output", "vote", "choice", "labels", "label",
    "chosen", "judgement", "judgment", "preference_responses", "preference_label", "result",
    "ranking", "rank", "order", "comparison", "selected", "selection", "annotations", "annotation",
)  # fmt: skip
_VERDICT_WORDS = {
    "preference", "preferred", "winner", "better", "verdict", "choice", "vote", "best", "choose",
    "judgement", "judgment", "label", "safer",
}  # fmt: skip
_NO_VERDICT = {
    "reason", "rationale", "explanation", "statement", "elaboration", "time", "model", "score",
    "unprocessed", "similar", "raw", "text", "criteria", "individual",
}  # fmt: skip
_BOOLEANS = (
    "{end}_is_better", "is_{end}_better", "{end}_better", "{end}_wins", "{end}_won",
    "{end}_is_preferred", "is_{end}_preferred", "{end}_preferred", "prefer_{end}", "prefers_{end}",
    "{end}_is_chosen", "{end}_is_best",
)  # fmt: skip
"""Columns that are true where one of the two responses is the better one."""
_SCORES = ("score", "rating", "reward", "scores", "ratings", "overall_score", "votes", "upvotes")
_RANKS = ("rank", "ranks")
_COMPARED = re.compile(r"([<>])\s*(-?\d+(?:\.\d+)?)")


def find_verdict(head: Head, two: Two) -> Verdict | None:
    """Return the verdict of a file with two responses, None where no column holds one.

    Raises:
        NeedsColumns: a column holds it, but can be read in two ways or not at all.
    """
    return (
        _one_hot(head, two)
        or _boolean(head, two)
        or _from_columns(head, two)
        or _from_scores(head, two)
        or _from_score_list(head, two)
        or _from_objects(head, two)
    )


def chosen_verdict(head: Head, two: Two, mapping: ColumnMapping) -> Verdict | None:
    """Return the verdict as the user chose it.

    Raises:
        NeedsColumns: the column can be read in two ways or not at all.
    """
    if not mapping.verdict:
        return find_verdict(head, two)
    index = head.columns.index(mapping.verdict)
    values = [(FIRST, mapping.first_values), (SECOND, mapping.second_values)]
    if any(given for _, given in values):
        tests = [(side, _test_of(text)) for side, given in values for text in given.split(",")]
        return _by_values(head, index, tests)
    return _from_column(head, two, index, is_certain=True)


def _by_values(head: Head, index: int, tests: list[tuple[str, Callable[[str], bool]]]) -> Verdict:
    def read(row: Row) -> str:
        value = plain_text(row.cells[index])
        found = {side for side, test in tests if test(value)}
        if len(found) == 1:
            return found.pop()
        return TIE if is_tie(value) else UNCLEAR

    return Verdict((index,), read, f"“{head.columns[index]}” is read as you chose")


def _test_of(text: str) -> Callable[[str], bool]:
    """Return the test for a value such as “model_a”, “1” or “<0”."""
    wanted = plain_text(text)
    compared = _COMPARED.fullmatch(wanted)
    if compared:
        bound, is_less = float(compared[2]), compared[1] == "<"

        def within(value: str) -> bool:
            number = number_of(value)
            return number is not None and (number < bound if is_less else number > bound)

        return within
    number = number_of(wanted)
    if number is not None:
        return lambda value: number_of(value) == number
    return lambda value: bool(wanted) and value == wanted


def _one_hot(head: Head, two: Two) -> Verdict | None:
    first, second = (
        head.find(*(f"{lead}{end}" for lead in ("winner_model_", "winner_", "winner_response_")))
        for end in two.ends
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
    return Verdict(indices, read, "one column of 0 and 1 for each outcome")


def _boolean(head: Head, two: Two) -> Verdict | None:
    """Return a verdict that is true or false of one response, or of each of the two."""
    ends = zip(two.ends, ("first", "second"), strict=True)
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
    return Verdict(indices, read, f"{names} {'is' if len(indices) == 1 else 'are'} true or false")


def _boolean_column(head: Head, two: Two, end: str, place: str) -> int | None:
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


def _from_columns(head: Head, two: Two) -> Verdict | None:
    """Return the verdict of the first column whose name and content are one."""
    taken = {two.first, two.second}
    named = [index for name in _VERDICTS if (index := head.find(name)) is not None]
    signed = [index for index in named if _is_strength(head, index) and not _is_signed(head, index)]
    certain = [index for index in named if index not in taken and index not in signed]
    similar = [
        index
        for index, column in enumerate(head.columns)
        if index not in named and index not in taken
        if set(words_of(column)) & _VERDICT_WORDS and not set(words_of(column)) & _NO_VERDICT
    ]
    for index in certain:
        verdict = _from_column(head, two, index, is_certain=True)
        if verdict:
            return verdict
    for index in similar:
        verdict = _from_column(head, two, index, is_certain=False)
        if verdict:
            return verdict
    for index in signed:
        if head.cells(index):
            _refuse_numbers(head, two, index, {number_of(cell) for cell in head.cells(index)})
    return None


def _is_strength(head: Head, index: int) -> bool:
    name = plain_name(head.columns[index])
    return "strength" in name or name == "overall_preference"


def _is_signed(head: Head, index: int) -> bool:
    return any((number_of(plain_text(cell)) or 0) < 0 for cell in head.cells(index))


def _from_column(head: Head, two: Two, index: int, *, is_certain: bool) -> Verdict | None:
    """Return the verdict of a column, None if it is empty.

    Args:
        head: the file.
        two: the responses.
        index: the column.
        is_certain: whether its name says that it is the verdict; otherwise one that cannot be read
            is none.

    Raises:
        NeedsColumns: it can be read in two ways or not at all.
    """
    values = [plain_text(cell) for cell in head.cells(index)]
    if not values:
        return None
    words = words_for(head, two)
    clear = [value for value in values if side_of(value, words) in {FIRST, SECOND}]
    ties = [value for value in values if is_tie(value)]
    rest = [value for value in values if value not in ties]
    if (clear or not rest) and (len(clear) + len(ties)) * 2 > len(values):
        return _worded(head, index, words)
    if rest and all(number_of(value) is not None for value in rest):
        numbers = {number_of(value) or 0.0 for value in rest}
        if two.ends == ("1", "2") and _are_between(numbers):
            return _between(head, index)
        return _numbered(head, two, index, set(map(number_of, rest)), is_certain=is_certain)
    by_model = _by_model(head, two, index) or _by_text(head, two, index)
    if by_model or not is_certain:
        return by_model
    return _refuse(head, two, index)


def _are_between(numbers: set[float]) -> bool:
    """Return whether numbers lie from 1 to 2 with fractions, as weighted preferences do."""
    return all(1 <= number <= 2 for number in numbers) and any(n != int(n) for n in numbers)


def _between(head: Head, index: int) -> Verdict:
    column = head.columns[index]
    return Verdict(
        (index,),
        lambda row: compared(1.5, plain_text(row.cells[index])),
        f"“{column}” below 1.5 chooses the first, above it the second",
    )


def _worded(head: Head, index: int, words: dict[str, str]) -> Verdict:
    return Verdict(
        (index,),
        lambda row: side_of(plain_text(row.cells[index]), words),
        f"“{head.columns[index]}” names the chosen one",
    )


def _by_model(head: Head, two: Two, index: int) -> Verdict | None:
    """Return a verdict that names the model of the better response."""
    first, second = (model_column(head, two, end) for end in two.ends)
    if first is None or second is None:
        return None

    def read(row: Row) -> str:
        winner, names = row.cells[index], (row.cells[first], row.cells[second])
        if winner in names and names[0] != names[1]:
            return FIRST if winner == names[0] else SECOND
        return TIE if is_tie(plain_text(winner)) else UNCLEAR

    if all(read(row) not in {FIRST, SECOND} for row in head.rows if not row.fault):
        return None
    return Verdict((index,), read, f"“{head.columns[index]}” names the model of the chosen one")


def _by_text(head: Head, two: Two, index: int) -> Verdict | None:
    """Return a verdict that repeats the text of the better response."""

    def read(row: Row) -> str:
        chosen, *texts = (str(row.cells[at]).strip() for at in (index, two.first, two.second))
        if chosen not in texts or texts[0] == texts[1]:
            return TIE if is_tie(plain_text(row.cells[index])) else UNCLEAR
        return FIRST if chosen == texts[0] else SECOND

    filled = [row for row in head.rows if not row.fault and row.cells[index]]
    if sum(read(row) in {FIRST, SECOND} for row in filled) * 2 <= len(filled):
        return None
    return Verdict((index,), read, f"“{head.columns[index]}” repeats the chosen one")


def _from_scores(head: Head, two: Two) -> Verdict | None:
    for name in (*_SCORES, *_RANKS):
        ends = [
            (
                f"{name}_{end}",
                f"{name}{end}",
                f"{two.stem}_{end}_{name}",
                f"{two.stem}_{name}_{end}",
                f"{name}_{two.stem}_{end}",
            )
            for end in two.ends
        ]
        first, second = (head.find(*names) for names in ends)
        if first is not None and second is not None and head.most(first, is_number):
            higher, lower = (second, first) if name in _RANKS else (first, second)
            rule = "lower" if name in _RANKS else "higher"
            return Verdict(
                (first, second),
                lambda row, a=higher, b=lower: compared(row.cells[a], row.cells[b]),  # type: ignore[misc]
                f"the {rule} of “{head.columns[first]}” and “{head.columns[second]}” is chosen",
            )
    return None


def _from_score_list(head: Head, two: Two) -> Verdict | None:
    """Return a verdict that is a list of two scores."""
    index = head.find(*_SCORES)
    words = words_for(head, two)
    if not head.most(index, lambda cell: len(_numbers_of(cell, words)) == 2) or index is None:
        return None

    def read(row: Row) -> str:
        numbers = _numbers_of(row.cells[index], words)
        return compared(*numbers) if len(numbers) == 2 else UNCLEAR

    column = head.columns[index]
    return Verdict((index,), read, f"the response with the higher score in “{column}” is chosen")


def _from_objects(head: Head, two: Two) -> Verdict | None:
    """Return a verdict by the scores inside two responses that are objects."""
    if not all(
        head.most(index, lambda cell: number_in(unpacked(cell), is_inside=True) is not None)
        for index in (two.first, two.second)
    ):
        return None

    def read(row: Row) -> str:
        first, second = (
            number_in(unpacked(row.cells[index]), is_inside=True)
            for index in (two.first, two.second)
        )
        return compared(first, second)

    return Verdict((), read, "the response with the higher score inside is chosen")


def _numbers_of(cell: object, words: dict[str, str]) -> list[float]:
    """Return the scores of a list, or of an object whose keys name the two responses."""
    value = unpacked(cell)
    if isinstance(value, dict):
        sides = {side_of(plain_text(key), words): one for key, one in value.items()}
        value = [sides.get(FIRST), sides.get(SECOND)]
    found = [number_of(one) for one in value] if isinstance(value, list) else []
    return [number for number in found if number is not None]


def _numbered(
    head: Head, two: Two, index: int, values: set[float | None], *, is_certain: bool
) -> Verdict | None:
    column = head.columns[index]
    if _is_signed(head, index):

        def signed(row: Row) -> str:
            number = number_of(plain_text(row.cells[index]))
            return UNCLEAR if number is None else compared(0.0, number)

        meaning = f"a negative “{column}” chooses the first, a positive one the second, 0 is a tie"
        return Verdict((index,), signed, meaning)
    table = _numbers(two, plain_name(column), values)
    if table is None and not is_certain:
        return None
    if table is None or _is_strength(head, index):
        return _refuse_numbers(head, two, index, values)

    def read(row: Row) -> str:
        value = plain_text(row.cells[index])
        number = number_of(value)
        if number is None:
            return TIE if is_tie(value) else UNCLEAR
        return table.get(number, UNCLEAR)

    meanings = ", ".join(f"{number:g} is {side}" for number, side in sorted(table.items()))
    return Verdict((index,), read, f"in “{column}” {meanings}")


def _numbers(two: Two, name: str, values: Iterable[float | None]) -> dict[float, str] | None:
    """Return what each number of a verdict means, None where it can mean two things."""
    found = set(values)
    if two.stem == "human_ref":
        # Stanford Human Preferences: the label is 1 where A is preferred.
        return {1.0: FIRST, 0.0: SECOND}
    if two.ends == ("0", "1"):
        return {0.0: FIRST, 1.0: SECOND, 2.0: TIE} if found & {0.0} or found == {1.0} else None
    if two.ends == ("1", "2"):
        return _from_one(found)
    if found <= {1.0, 2.0, 3.0} and 2.0 in found:
        return {1.0: FIRST, 2.0: SECOND, 3.0: TIE, 0.0: TIE}
    # A label of 1 may also mean that the first response is preferred.
    if found in ({0.0, 1.0}, {0.0}) and not name.startswith("label"):
        return {0.0: FIRST, 1.0: SECOND, 2.0: TIE}
    return None


def _from_one(found: set[float | None]) -> dict[float, str] | None:
    if found <= {0.0, 1.0, 2.0} and 2.0 in found:
        return {0.0: TIE, 1.0: FIRST, 2.0: SECOND}
    if found <= {1.0, 2.0, 3.0}:
        return {1.0: FIRST, 2.0: SECOND, 3.0: TIE, 0.0: TIE}
    return None


def _refuse(head: Head, two: Two, index: int) -> NoReturn:
    names = f"“{head.columns[two.first]}” or “{head.columns[two.second]}”"
    column, example = head.columns[index], str(head.cells(index)[0])[:40]
    raise needs_verdict(
        head,
        two,
        index,
        f"“{column}” does not show whether {names} is better: it holds “{example}”.",
    )


def _refuse_numbers(head: Head, two: Two, index: int, values: Iterable[float | None]) -> NoReturn:
    numbers = ", ".join(f"{number:g}" for number in sorted(one or 0.0 for one in values))
    raise needs_verdict(
        head,
        two,
        index,
        f"“{head.columns[index]}” holds {numbers}, which does not show which of "
        f"“{head.columns[two.first]}” and “{head.columns[two.second]}” is better.",
    )


def needs_verdict(head: Head, two: Two, index: int | None, fact: str) -> NeedsColumns:
    """Return the error that asks the user for the verdict of a file with two responses."""
    found = {
        "shape": "verdict",
        "first": head.columns[two.first],
        "second": head.columns[two.second],
    }
    if index is not None:
        found["verdict"] = head.columns[index]
    taken = [two.first, two.second, *([] if index is None else [index])]
    prompt = find_prompt(head, taken).parts(head)
    found |= {part: column for part, column in prompt.items() if column}
    where = f"column “{found['verdict']}”" if index is not None else head.where_named
    return NeedsColumns(
        fact,
        where=where,
        hint="Name the values that choose each response, for example --map first_values=0 --map "
        "second_values=1, or write the name of the better column into it.",
        columns=head.columns,
        has_header=head.has_header,
        found=found,
    )
