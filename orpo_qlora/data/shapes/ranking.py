"""Ranked lists: several responses to one prompt, with scores, ranks or an order. Floor 1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orpo_qlora.data.column_names import plain_name
from orpo_qlora.data.columns import ColumnMapping, mapping_of
from orpo_qlora.data.files.choices import PairsFromRanking
from orpo_qlora.data.readers.rows import Row
from orpo_qlora.data.shapes.base import Head, Preference, RowFaultError, Shape
from orpo_qlora.data.shapes.content.cells import answer_object_key, is_message, unpacked
from orpo_qlora.data.shapes.content.prompts import (
    PromptColumns,
    find_prompt,
    is_conversation,
    needs_prompt,
    response_turns,
)
from orpo_qlora.data.shapes.content.turns import join, with_system
from orpo_qlora.data.shapes.verdict.values import BAD_LABELS, GOOD_LABELS, number_of
from orpo_qlora.errors import NeedsColumns

_LISTS = (
    "responses", "completions", "generations", "answers", "candidates", "outputs", "output",
    "replies", "choices", "options", "model_responses", "model_outputs", "all_responses",
    "summaries", "response", "completion", "answer", "generation",
)  # fmt: skip
_ORDERED = ("output", "outputs")
_SCORES = ("scores", "ratings", "rewards", "overall_scores", "score", "rating", "reward")
# “ranking” is left out: it may as well be the order of the responses.
_RANKS = ("ranks", "rank")
_CHOICES = ("choice", "best", "best_index", "best_response", "chosen_index", "winner", "chosen")
_SCORE_KEYS = ("score", "overall_score", "rating", "overall_rating", "reward", "Rating",
               "quality", "pm_score", "votes", "upvotes", "likes")  # fmt: skip
_RANK_KEYS = ("rank", "ranking")
_MARK_KEYS = ("label", "is_chosen", "chosen", "selected", "preferred", "is_preferred", "is_best",
              "best", "accepted", "is_accepted", "status")  # fmt: skip
"""Keys that are true, or “chosen”, in the better responses."""
Scored = list[tuple[float, object]]


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


class RankedList(Shape):
    """Rows with several responses in order of quality."""

    name = "ranked list"

    def __init__(self, head: Head, source: Source, mapping: ColumnMapping | None = None) -> None:
        self._source = source
        self._sign = -1 if mapping and mapping.is_reversed else 1
        self._setting = head.pairs_from_ranking
        self._prompt = find_prompt(head, source.indices, mapping)
        if self._prompt.prompt is None or self._prompt.prompt in source.indices:
            self._prompt = PromptColumns(None, self._prompt.system)
        self._counts = {"best_worst": 0, "best_rest": 0, "all": 0}
        indices = sorted({*source.indices, *self._prompt.indices()})
        self.used = tuple(head.columns[index] for index in indices)
        named = {"responses": source.responses, "scores": source.scores}
        columns = {part: "" if at is None else head.columns[at] for part, at in named.items()}
        if self._prompt.prompt is None and not _hold_conversations(head, source):
            raise needs_prompt(
                head, "ranking", {part: name for part, name in columns.items() if name}
            )
        self.mapping = mapping or mapping_of(
            {**self._prompt.parts(head), "shape": "ranking", **columns}
        )
        opposite = ", the other way round" if self._sign < 0 else ""
        self.notes = (f"Ranked responses: {source.meaning}{opposite}.",)

    def pairs_mapping(self, head: Head, chosen: str, rejected: str) -> ColumnMapping:
        """Return the mapping of a file whose rejected responses are a list."""
        parts = self._prompt.parts(head)
        return mapping_of({**parts, "chosen": chosen, "rejected": rejected})

    def preferences(self, row: Row) -> Sequence[Preference]:
        """Return the preferences of a ranked row, as many as `pairs_from_ranking` asks for."""
        scored = [(self._sign * score, answer) for score, answer in self._source.read(row)]
        if len(scored) < 2:
            raise RowFaultError("no-ranking", "fewer than two responses have a score")
        for setting in self._counts:
            self._counts[setting] += len(pairs_of(scored, setting))  # type: ignore[arg-type]
        pairs = pairs_of(scored, self._setting)
        if not pairs:
            raise RowFaultError("tie", "all responses have the same score")
        before, system = self._prompt.turns(row), self._prompt.system_text(row)
        is_whole = self._prompt.prompt is None
        turns = [[response_turns(cell, is_whole=is_whole) for cell in pair] for pair in pairs]
        return [with_system(join(good, bad, before), system) for good, bad in turns]

    def ranking_pairs(self) -> dict[str, int]:
        """Return the pairs that each setting gives in the rows read so far."""
        return dict(self._counts)


def pairs_of(scored: Scored, setting: PairsFromRanking) -> list[tuple[object, object]]:
    """Return (better, worse) responses; responses with equal scores are never paired.

    Args:
        scored: (score, response) in file order; the higher score is better.
        setting: the best with the worst, the best with every worse one, or all with all worse.
    """
    ranked = sorted(scored, key=lambda item: -item[0])
    worse = [item for item in ranked if item[0] < ranked[0][0]]
    if setting == "best_worst":
        lowest = [item for item in worse if item[0] == worse[-1][0]]
        return [(ranked[0][1], lowest[0][1])] if lowest else []
    if setting == "best_rest":
        return [(ranked[0][1], item[1]) for item in worse]
    return [
        (better[1], item[1])
        for place, better in enumerate(ranked)
        for item in ranked[place + 1 :]
        if item[0] < better[0]
    ]


def recognise(head: Head) -> Shape | None:
    """Return the shape of a file of ranked lists, else None."""
    source = next(
        (
            source
            for name in _LISTS
            if (index := head.find(name)) is not None and head.most(index, _is_answers)
            if (source := _source_of(head, index) or _better_first(head, index, name)) is not None
        ),
        None,
    )
    return None if source is None else RankedList(head, source)


def unordered_list(head: Head) -> str:
    """Return the column that holds several responses to one prompt, empty without one."""
    found = (head.find(name) for name in _LISTS)
    return next(
        (head.columns[at] for at in found if at is not None and head.most(at, _is_answers)), ""
    )


def _hold_conversations(head: Head, source: Source) -> bool:
    return head.most(
        source.indices[0], lambda cell: any(map(is_conversation, _list(cell) or [cell]))
    )


def from_mapping(head: Head, mapping: ColumnMapping) -> Shape:
    """Return the shape with the columns that the user chose.

    Raises:
        NeedsColumns: nothing orders the responses.
    """
    if not mapping.responses:
        raise NeedsColumns(
            "No column is chosen for the responses.",
            where=head.where_named,
            hint="Choose it with --map responses=COLUMN.",
            columns=head.columns,
            has_header=head.has_header,
            found={"shape": "ranking", **dict(mapping.parts())},
        )
    index = head.columns.index(mapping.responses)
    source = None
    if mapping.scores:
        other = head.columns.index(mapping.scores)
        is_rank = "rank" in mapping.scores.casefold()
        source = _with_numbers(head, index, other, is_rank=is_rank) or _with_choice(
            head, index, other
        )
    else:
        source = _source_of(head, index) or _by_position(head, index)
    if source is None:
        raise NeedsColumns(
            f"“{mapping.scores or mapping.responses}” does not order the responses.",
            where=f"column “{mapping.scores or mapping.responses}”",
            hint="Choose a column with one score or rank for each response: --map scores=COLUMN.",
            columns=head.columns,
            has_header=head.has_header,
            found={"shape": "ranking", **dict(mapping.parts())},
        )
    return RankedList(head, source, mapping)


def recognise_rejected_list(head: Head, mapping: ColumnMapping | None = None) -> Shape | None:
    """Return the shape of a file with one chosen response and a list of rejected ones."""
    chosen, rejected = head.find("chosen"), head.find("rejected")
    if mapping is not None:
        chosen, rejected = (head.columns.index(one) for one in (mapping.chosen, mapping.rejected))
    if chosen is None or rejected is None or not _has_lists(head, rejected):
        return None

    def read(row: Row) -> Scored:
        value = unpacked(row.cells[rejected])
        values = value if isinstance(value, list) else [value]
        good = unpacked(row.cells[chosen]) if head.most(chosen, _is_answers_or_one) else None
        best = good[0] if isinstance(good, list) and good else row.cells[chosen]
        return [(1.0, best), *((0.0, one) for one in values)]

    good, bad = head.columns[chosen], head.columns[rejected]
    meaning = f"“{bad}” is a list, and “{good}” is better than each of it"
    shape = RankedList(head, Source(read, (chosen, rejected), meaning), mapping)
    shape.mapping = mapping or shape.pairs_mapping(head, good, bad)
    return shape


def _has_lists(head: Head, index: int) -> bool:
    filled = [cell for cell in head.cells(index) if unpacked(cell) != []]
    return bool(filled) and sum(map(_is_answers_or_one, filled)) * 2 > len(filled)


def _source_of(head: Head, index: int) -> Source | None:
    """Return what orders the responses of a column, found by names and content."""
    for names, is_rank in ((_SCORES, False), (_RANKS, True)):
        other = head.find(*names)
        if other is not None and other != index:
            source = _with_numbers(head, index, other, is_rank=is_rank)
            if source:
                return source
    column = head.columns[index]
    for keys, sign, rule in ((_SCORE_KEYS, 1, "highest"), (_RANK_KEYS, -1, "lowest")):
        key = next((key for key in keys if head.most(index, _has_key(key))), None)
        if key:
            meaning = f"“{column}” with its key “{key}”, the {rule} is the best"
            return Source(_inside(index, key, sign), (index,), meaning, index)
    mark = next((key for key in _MARK_KEYS if head.most(index, _has_mark(key))), None)
    if mark:
        meaning = f"“{column}” with its key “{mark}”, which marks the better ones"
        return Source(_inside(index, mark, 1, _mark_of), (index,), meaning, index)
    choice = head.find(*_CHOICES)
    return None if choice is None or choice == index else _with_choice(head, index, choice)


def _better_first(head: Head, index: int, name: str) -> Source | None:
    is_two = name in _ORDERED and head.most(index, lambda cell: len(_list(cell)) == 2)
    return _by_position(head, index) if is_two else None


def _with_numbers(head: Head, index: int, other: int, *, is_rank: bool) -> Source | None:
    """Return the order by a list of scores, or of ranks, beside the responses."""
    if not head.most(other, _is_number_list):
        return None
    rule = "lowest" if is_rank else "highest"
    meaning = f"“{head.columns[index]}” with “{head.columns[other]}”, the {rule} is the best"
    read = _beside(index, other, -1 if is_rank else 1)
    return Source(read, (index, other), meaning, index, other)


def _with_choice(head: Head, index: int, choice: int) -> Source | None:
    """Return the order by the best response: its position from 0 or 1, or its text.

    Raises:
        NeedsColumns: it is not clear from which number positions count.
    """
    column, name = head.columns[index], head.columns[choice]
    rows = [row for row in head.rows if not row.fault and row.cells[choice] not in (None, "")]
    if rows and all(row.cells[choice] in _list(row.cells[index]) for row in rows):
        meaning = f"“{name}” is the best one in “{column}”"
        return Source(_same(index, choice), (index, choice), meaning, index, choice)
    if not head.most(choice, lambda cell: number_of(cell) is not None):
        return None
    numbers = [(number_of(row.cells[choice]), len(_list(row.cells[index]))) for row in rows]
    counts_from_one = any(number == size for number, size in numbers)
    if counts_from_one == any(number == 0 for number, _ in numbers):
        raise NeedsColumns(
            f"“{name}” does not show whether the positions in “{column}” count from 0 or from 1.",
            where=f"column “{name}”",
            hint="Write the best response itself into it, or one score for each response.",
            columns=head.columns,
            has_header=head.has_header,
            found={"shape": "ranking", "responses": column, "scores": name},
        )
    start = 1 if counts_from_one else 0
    meaning = f"“{name}” is the position of the best one in “{column}”, from {start}"
    return Source(_picked(index, choice, start), (index, choice), meaning, index, choice)


def _by_position(head: Head, index: int) -> Source | None:
    if not head.most(index, lambda cell: len(_list(cell)) > 1):
        return None
    meaning = f"“{head.columns[index]}” holds the better response first"
    return Source(lambda row: _in_order(row.cells[index]), (index,), meaning, index)


def _beside(index: int, other: int, sign: int) -> Callable[[Row], Scored]:
    def read(row: Row) -> Scored:
        answers, scores = _beside_each_other(row.cells[index], row.cells[other])
        if len(answers) != len(scores):
            raise RowFaultError("no-ranking", f"{len(answers)} responses, {len(scores)} scores")
        numbers = map(number_of, scores)
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
    return _list(responses), _list(scores)


def _inside(
    index: int, key: str, sign: int, read_number: Callable[[object], float | None] = number_of
) -> Callable[[Row], Scored]:
    def read(row: Row) -> Scored:
        return [
            (sign * number, answer)
            for answer in _list(row.cells[index])
            if isinstance(answer, dict) and (number := read_number(answer.get(key))) is not None
        ]

    return read


def _picked(index: int, choice: int, start: int) -> Callable[[Row], Scored]:
    def read(row: Row) -> Scored:
        best = number_of(row.cells[choice])
        answers = enumerate(_list(row.cells[index]), start=start)
        return [(float(place == best), one) for place, one in answers]

    return read


def _same(index: int, choice: int) -> Callable[[Row], Scored]:
    def read(row: Row) -> Scored:
        best = row.cells[choice]
        return [(float(one == best), one) for one in _list(row.cells[index])]

    return read


def _in_order(cell: object) -> Scored:
    return [(-float(place), answer) for place, answer in enumerate(_list(cell))]


def _list(cell: object) -> list[object]:
    value = unpacked(cell)
    if isinstance(value, dict) and not is_message(value) and not answer_object_key(value):
        return list(value.values())  # by the names of the models
    return value if isinstance(value, list) else []


def _is_number_list(cell: object) -> bool:
    return any(number_of(one) is not None for one in _list(cell))


def _has_key(key: str) -> Callable[[object], bool]:
    return lambda cell: any(
        isinstance(one, dict) and number_of(one.get(key)) is not None for one in _list(cell)
    )


def _has_mark(key: str) -> Callable[[object], bool]:
    """Return the test whether a list has both responses that a key marks and others."""

    def test(cell: object) -> bool:
        marks = {_mark_of(one.get(key)) for one in _list(cell) if isinstance(one, dict)}
        return marks >= {0.0, 1.0}

    return test


def _mark_of(value: object) -> float | None:
    text = plain_name(str(value))
    return 1.0 if text in GOOD_LABELS else 0.0 if text in BAD_LABELS else None


def _is_answers(cell: object) -> bool:
    return len(_list(cell)) > 1 and _is_answers_or_one(cell)


def _is_answers_or_one(cell: object) -> bool:
    """Return whether a cell is a list of responses, not of the turns of one conversation."""
    values = _list(cell)
    return bool(values) and all(map(_is_response, values))


def _is_response(value: object) -> bool:
    if isinstance(value, list):
        return bool(value) and all(map(is_message, value))
    return isinstance(value, str) or bool(answer_object_key(value)) or _is_assistant(value)


def _is_assistant(value: object) -> bool:
    return isinstance(value, dict) and is_message(value) and "score" in value
