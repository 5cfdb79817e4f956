"""What orders the responses of a ranked row: scores, an order, marks, the best. Floor 1."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from orpo_qlora.data.column_names import plain_name, words_of
from orpo_qlora.data.readers.rows import Row
from orpo_qlora.data.shapes import orders
from orpo_qlora.data.shapes.base import Head, RowFaultError
from orpo_qlora.data.shapes.content.cells import (
    answer_object_key,
    is_message,
    is_message_list,
    unpacked,
)
from orpo_qlora.data.shapes.verdict.values import label_of, number_of
from orpo_qlora.errors import NeedsColumns

# PaddleNLP’s “sort” is higher for the chosen response.
_SCORES = (
    "scores", "ratings", "rewards", "overall_scores", "score", "rating", "reward", "sort",
)  # fmt: skip
_SCORE_WORDS = {"scores", "ratings", "rewards", "score", "rating", "reward"}
# “ranking” is left out: a list of numbers there may as well be the order of the responses.
_RANKS = ("ranks", "rank")
_CHOICES = (
    "choice", "best", "best_index", "best_idx", "best_id", "best_response", "best_answer",
    "chosen_index", "chosen_idx", "chosen_id", "winner", "winner_index", "winner_idx", "winner_id",
    "chosen", "preferred", "preferred_index", "preferred_idx", "preferred_id",
    "preferred_response", "preference", "selected", "selected_index", "accept", "accepted",
    "accepted_id", "accepted_answer_id", "better", "label",
)  # fmt: skip
_CHOICE_WORDS = {
    "best",
    "preferred",
    "chosen",
    "winner",
    "better",
    "choice",
    "selected",
    "accepted",
}
_NO_CHOICE = {"score", "rating", "reward", "reason", "rationale", "source", "count", "time"}
_WORST = (
    "rejected_index", "rejected_idx", "rejected_id", "rejected", "worst", "worst_index",
    "worst_idx", "worst_response", "loser", "loser_index", "dispreferred",
)  # fmt: skip
"""Columns that name the worse response beside one that names the better."""
_SCORE_KEYS = ("score", "overall_score", "rating", "overall_rating", "reward", "quality",
               "pm_score", "votes", "vote", "upvotes", "likes")  # fmt: skip
_RANK_KEYS = ("rank", "ranking")
_MARK_KEYS = ("label", "is_chosen", "chosen", "selected", "preferred", "is_preferred", "is_best",
              "best", "accepted", "is_accepted", "status", "preference", "preference_label",
              "type", "verdict", "feedback", "is_better", "is_winner", "winner", "is_correct",
              "correct")  # fmt: skip
"""Keys that are true, or “chosen”, in the better responses."""
_NAME_KEYS = ("id", "response_id", "answer_id", "name", "key", "model", "model_name")
Scored = list[tuple[float, object]]
Places = Mapping[str, int]


@dataclass(frozen=True)
class Source:
    """Where the responses of a row are, and what makes one better."""

    read: Callable[[Row], Scored]
    """Scored responses of a row; the higher score is better."""
    indices: tuple[int, ...]
    meaning: str
    responses: int | None = None
    """The column of lists, if there is one."""
    scores: int | None = None


def source_of(head: Head, index: int) -> Source | None:
    """Return what orders the responses of a column, found by names and content.

    Raises:
        NeedsColumns: a column names responses by numbers that can be read in two ways.
    """
    return (
        _beside_numbers(head, index)
        or _inside_objects(head, index)
        or _beside_order(head, index)
        or _beside_choice(head, index)
    )


def source_in(head: Head, index: int, other: int) -> Source | None:
    """Return what orders the responses of a column by another column that the user chose.

    Raises:
        NeedsColumns: it names responses by numbers that can be read in two ways.
    """
    is_rank = "rank" in head.columns[other].casefold()
    return (
        _with_numbers(head, index, other, is_rank=is_rank)
        or _with_order(head, index, other)
        or _with_choice(head, index, other)
    )


def by_position(head: Head, index: int) -> Source | None:
    """Return the order of lists that hold the better response first."""
    if not head.most(index, lambda cell: len(responses_of(cell)) > 1):
        return None
    meaning = f"“{head.columns[index]}” holds the better response first"
    return Source(lambda row: _in_order(row.cells[index]), (index,), meaning, index)


def responses_of(cell: object) -> list[object]:
    """Return the responses of a list, or of an object by the names of the models."""
    value = unpacked(cell)
    if isinstance(value, dict) and not is_message(value) and not answer_object_key(value):
        return list(value.values())
    return value if isinstance(value, list) else []


def are_responses(cell: object) -> bool:
    """Return whether a cell holds several responses to one prompt."""
    return len(responses_of(cell)) > 1 and is_response_list(cell)


def is_response_list(cell: object) -> bool:
    """Return whether a cell is a list of responses, not of the turns of one conversation."""
    values = responses_of(cell)
    return bool(values) and all(map(_is_response, values))


def _is_response(value: object) -> bool:
    if isinstance(value, list):
        return is_message_list(value) or (len(value) == 1 and isinstance(value[0], str))
    return isinstance(value, str) or bool(answer_object_key(value)) or _is_assistant(value)


def _is_assistant(value: object) -> bool:
    return isinstance(value, dict) and is_message(value) and "score" in value


def _beside_numbers(head: Head, index: int) -> Source | None:
    """Return the order by a list of scores or ranks in a column whose name says so."""
    for names, is_rank in ((_SCORES, False), (_RANKS, True)):
        other = head.find(*names)
        if other is not None and other != index:
            source = _with_numbers(head, index, other, is_rank=is_rank)
            if source:
                return source
    similar = [
        at
        for at, column in enumerate(head.columns)
        if at != index and _SCORE_WORDS & set(words_of(column)) and head.most(at, _is_number_list)
    ]
    return _with_numbers(head, index, similar[0], is_rank=False) if len(similar) == 1 else None


def _with_numbers(head: Head, index: int, other: int, *, is_rank: bool) -> Source | None:
    if not head.most(other, _is_number_list):
        return None
    rule = "lowest" if is_rank else "highest"
    meaning = f"“{head.columns[index]}” with “{head.columns[other]}”, the {rule} is the best"
    read = _beside(index, other, -1 if is_rank else 1)
    return Source(read, (index, other), meaning, index, other)


def _beside(index: int, other: int, sign: int) -> Callable[[Row], Scored]:
    def read(row: Row) -> Scored:
        answers, scores = _beside_each_other(row.cells[index], row.cells[other])
        if len(answers) != len(scores):
            raise RowFaultError("no-ranking", f"{len(answers)} responses, {len(scores)} scores")
        numbers = map(number_in, scores)
        return [
            (sign * number, answer)
            for number, answer in zip(numbers, answers, strict=True)
            if number is not None
        ]

    return read


def _beside_each_other(responses: object, scores: object) -> tuple[list[object], list[object]]:
    """Return responses and their scores in one order; objects are matched by their keys."""
    by_name, numbers = unpacked(responses), unpacked(scores)
    if isinstance(by_name, dict) and isinstance(numbers, dict):
        return list(by_name.values()), [numbers.get(name) for name in by_name]
    return responses_of(responses), responses_of(scores)


def _is_number_list(cell: object) -> bool:
    return any(number_in(one) is not None for one in responses_of(cell))


def number_in(value: object, *, is_inside: bool = False) -> float | None:
    """Return a score: a number, or an object that holds one; only an object's if it is inside."""
    if isinstance(value, dict):
        return next(
            (n for key in _SCORE_KEYS if (n := number_of(_value(value, key))) is not None), None
        )
    return None if is_inside else number_of(value)


def _value(answer: object, key: str) -> object:
    """Return the value of a key of an object, however the key is spelt."""
    if not isinstance(answer, dict):
        return None
    return next((one for name, one in answer.items() if plain_name(str(name)) == key), None)


def _inside_objects(head: Head, index: int) -> Source | None:
    """Return the order by a score, a rank or a mark inside each response."""
    column = head.columns[index]
    scores = (*_SCORE_KEYS, *_similar_keys(head, index))
    for keys, sign, rule in ((scores, 1, "highest"), (_RANK_KEYS, -1, "lowest")):
        key = next((key for key in keys if head.most(index, _has_number(key))), None)
        if key:
            meaning = f"“{column}” with its key “{key}”, the {rule} is the best"
            return Source(_inside(index, key, sign, number_of), (index,), meaning, index)
    mark = next((key for key in _MARK_KEYS if head.most(index, _has_mark(key))), None)
    if mark is None:
        return None
    meaning = f"“{column}” with its key “{mark}”, which marks the better ones"
    return Source(_inside(index, mark, 1, _mark_of), (index,), meaning, index)


def _similar_keys(head: Head, index: int) -> list[str]:
    """Return the one key of the responses with a word for a score, such as “armo_score”."""
    objects = [one for cell in head.cells(index) for one in responses_of(cell)]
    keys = {plain_name(str(key)): None for one in objects if isinstance(one, dict) for key in one}
    similar = [key for key in keys if _SCORE_WORDS & set(words_of(key))]
    return similar if len(similar) == 1 else []


def _inside(
    index: int, key: str, sign: int, read_number: Callable[[object], float | None]
) -> Callable[[Row], Scored]:
    def read(row: Row) -> Scored:
        return [
            (sign * number, answer)
            for answer in responses_of(row.cells[index])
            if (number := read_number(_value(answer, key))) is not None
        ]

    return read


def _has_number(key: str) -> Callable[[object], bool]:
    return lambda cell: any(number_of(_value(one, key)) is not None for one in responses_of(cell))


def _has_mark(key: str) -> Callable[[object], bool]:
    """Return the test whether a list has both responses that a key marks and others."""
    return lambda cell: {_mark_of(_value(one, key)) for one in responses_of(cell)} >= {0.0, 1.0}


def _mark_of(value: object) -> float | None:
    label = label_of(value)
    return None if label is None else float(label)


def _beside_order(head: Head, index: int) -> Source | None:
    found = (head.find(name) for name in orders.NAMES)
    sources = (_with_order(head, index, at) for at in found if at is not None and at != index)
    return next(filter(None, sources), None)


def _with_order(head: Head, index: int, other: int) -> Source | None:
    """Return the order by a text such as “2>1”, or by a list of names, the best first.

    Raises:
        NeedsColumns: it is not clear from which number it counts.
    """
    if not head.most(other, lambda cell: orders.order_of(cell) is not None):
        return None
    rows = [row for row in head.rows if not row.fault and orders.order_of(row.cells[other])]
    found = [orders.order_of(row.cells[other]) or [] for row in rows]
    sizes = [len(responses_of(row.cells[index])) for row in rows]
    start = orders.first_number(found, sizes)
    if start is None and any(name.isdigit() for one in found for group in one for name in group):
        raise _two_ways(head, index, other)
    known = [
        sum(name in _places(row.cells[index], start or 0) for group in order for name in group)
        for row, order in zip(rows, found, strict=True)
    ]
    if sum(count > 1 for count in known) * 2 <= len(rows):
        return None

    def read(row: Row) -> Scored:
        order = orders.order_of(row.cells[other])
        if order is None:
            raise RowFaultError("no-ranking", f"{row.cells[other]}"[:200])
        answers = responses_of(row.cells[index])
        scores = orders.scores_of(order, _places(row.cells[index], start or 0))
        return [(score, answers[place]) for place, score in scores.items()]

    meaning = f"“{head.columns[other]}” is the order of “{head.columns[index]}”, the best first"
    return Source(read, (index, other), meaning, index, other)


def _places(cell: object, start: int) -> dict[str, int]:
    """Return the places of the responses of a cell by letter, number, key and id."""
    value = unpacked(cell)
    answers = responses_of(value)
    places = orders.names_of_places(len(answers), start)
    if isinstance(value, dict):
        places |= {orders.plain_label(str(name)): at for at, name in enumerate(value)}
    for key in _NAME_KEYS:
        names = [_value(answer, key) for answer in answers]
        if all(isinstance(name, str) for name in names) and len(set(map(str, names))) > 1:
            places |= {orders.plain_label(str(name)): at for at, name in enumerate(names)}
    return places


def _beside_choice(head: Head, index: int) -> Source | None:
    found = (head.find(name) for name in _CHOICES)
    certain = [at for at in found if at is not None and at != index]
    similar = [
        at
        for at, column in enumerate(head.columns)
        if at != index and at not in certain
        if _CHOICE_WORDS & set(words_of(column)) and not _NO_CHOICE & set(words_of(column))
    ]
    sources = (_with_choice(head, index, at) for at in (*certain, *similar))
    return next(filter(None, sources), None)


def _with_choice(head: Head, index: int, choice: int) -> Source | None:
    """Return the order by the best response: its text, its name, its letter or its position.

    Raises:
        NeedsColumns: it is not clear from which number positions count.
    """
    rows = [row for row in head.rows if not row.fault and _chosen(row.cells[choice]) != ""]
    found = head.find(*_WORST)
    worst = found if found not in (None, index, choice) else None
    start = _start(rows, index, (choice, worst))
    if not rows or sum(_place(row, index, choice, start) is not None for row in rows) < len(rows):
        if start is None and rows and all(_is_place(row, index, choice) for row in rows):
            raise _two_ways(head, index, choice)
        return None
    if worst is not None and not head.most(
        worst, lambda cell: number_of(_chosen(cell)) is not None or isinstance(cell, str)
    ):
        worst = None

    def read(row: Row) -> Scored:
        best = _place(row, index, choice, start)
        answers = responses_of(row.cells[index])
        bad = None if worst is None else _place(row, index, worst, start)
        if best is None:
            raise RowFaultError("unclear-verdict", f"{row.cells[choice]}"[:200])
        places = range(len(answers)) if bad is None else (best, bad)
        return [(float(place == best), answers[place]) for place in places]

    column, name = head.columns[index], head.columns[choice]
    is_number = head.most(choice, lambda cell: number_of(_chosen(cell)) is not None)
    is_place = is_number and start is not None
    meaning = (
        f"“{name}” is the position of the best one in “{column}”, from {start}"
        if is_place
        else f"“{name}” is the best one in “{column}”"
    )
    indices = tuple(at for at in (index, choice, worst) if at is not None)
    return Source(read, indices, meaning, index, choice)


def _chosen(cell: object) -> object:
    """Return what a cell names: a list of one, as annotation tools write it, is that one."""
    value = unpacked(cell)
    if isinstance(value, list):
        value = value[0] if len(value) == 1 else ""
    if isinstance(value, dict):
        value = value.get("value", "")
    return "" if value is None else value


def _place(row: Row, index: int, choice: int, start: int | None) -> int | None:
    """Return the place of the response that a cell names, None where it names none."""
    answers, chosen = responses_of(row.cells[index]), _chosen(row.cells[choice])
    if chosen in answers:
        return answers.index(chosen)
    number = number_of(chosen)
    if number is not None:
        place = -1 if start is None or number != int(number) else int(number) - start
        return place if 0 <= place < len(answers) else _place_of_id(answers, chosen)
    if not isinstance(chosen, str):
        return None
    texts = [_text_in(answer) for answer in answers]
    if chosen.strip() in texts:
        return texts.index(chosen.strip())
    return _places(row.cells[index], 0).get(orders.plain_label(chosen))


def _place_of_id(answers: list[object], chosen: object) -> int | None:
    for key in _NAME_KEYS:
        names = [_value(answer, key) for answer in answers]
        found = [place for place, name in enumerate(names) if str(name) == str(chosen)]
        if len(found) == 1:
            return found[0]
    return None


def _text_in(answer: object) -> str:
    key = answer_object_key(answer)
    text = answer[key] if key and isinstance(answer, dict) else answer
    return text.strip() if isinstance(text, str) else ""


def _is_place(row: Row, index: int, choice: int) -> bool:
    number = number_of(_chosen(row.cells[choice]))
    return number is not None and 0 <= number <= len(responses_of(row.cells[index]))


def _start(rows: list[Row], index: int, columns: tuple[int | None, ...]) -> int | None:
    """Return from which number positions count, None where nothing shows it."""
    found, sizes = [], []
    for row in rows:
        for at in columns:
            number = None if at is None else number_of(_chosen(row.cells[at]))
            if number is not None and number == int(number) >= 0:
                found.append([[str(int(number))]])
                sizes.append(len(responses_of(row.cells[index])))
    return orders.first_number(found, sizes)


def _two_ways(head: Head, index: int, other: int) -> NeedsColumns:
    column, name = head.columns[index], head.columns[other]
    return NeedsColumns(
        f"“{name}” does not show whether the positions in “{column}” count from 0 or from 1.",
        where=f"column “{name}”",
        hint="Write the best response itself into it, or one score for each response.",
        columns=head.columns,
        has_header=head.has_header,
        found={"shape": "ranking", "responses": column, "scores": name},
    )


def _in_order(cell: object) -> Scored:
    return [(-float(place), answer) for place, answer in enumerate(responses_of(cell))]
