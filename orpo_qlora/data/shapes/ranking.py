"""Ranked lists: several responses to one prompt, with scores, ranks or an order. Floor 1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orpo_qlora.data.choices import PairsFromRanking
from orpo_qlora.data.readers.rows import Row
from orpo_qlora.data.shapes.base import Head, Preference, RowFaultError, Shape
from orpo_qlora.data.shapes.cells import answer_object_key, is_message, turns_of, unpacked
from orpo_qlora.data.shapes.prompts import find_prompt
from orpo_qlora.data.shapes.turns import join, with_system
from orpo_qlora.data.shapes.verdict import number_of

_LISTS = (
    "responses", "completions", "generations", "answers", "candidates", "outputs", "output",
    "replies", "choices", "options", "model_responses", "model_outputs", "all_responses",
    "summaries", "response", "completion", "answer", "generation",
)  # fmt: skip
_ORDERED = ("output", "outputs")
_SCORES = ("scores", "ratings", "rewards", "overall_scores", "score", "rating", "reward")
_RANKS = ("ranks", "rank", "rankings", "ranking")
_SCORE_KEYS = ("score", "overall_score", "rating", "overall_rating", "reward", "Rating",
               "quality", "pm_score")  # fmt: skip
_RANK_KEYS = ("rank", "ranking")
MOST_NUMBERED = 20
"""Numbered columns that are looked for: response_0 to response_19."""
_Scored = list[tuple[float, object]]


@dataclass(frozen=True)
class _Source:
    """Where the responses of a row are, and what makes one better."""

    read: Callable[[Row], _Scored]
    """Scored responses of a row; the higher score is better."""
    indices: tuple[int, ...]
    meaning: str


class RankedList(Shape):
    """Rows with several responses in order of quality."""

    name = "ranked list"

    def __init__(self, head: Head, source: _Source) -> None:
        self._source = source
        self._setting = head.pairs_from_ranking
        self._prompt = find_prompt(head, source.indices)
        self._counts = {"best_worst": 0, "best_rest": 0, "all": 0}
        indices = sorted({*source.indices, *self._prompt.indices()})
        self.used = tuple(head.columns[index] for index in indices)
        self.notes = (f"Ranked responses: {source.meaning}.",)

    def preferences(self, row: Row) -> Sequence[Preference]:
        """Return the preferences of a ranked row, as many as `pairs_from_ranking` asks for."""
        scored = self._source.read(row)
        if len(scored) < 2:
            raise RowFaultError("no-ranking", "fewer than two responses have a score")
        for setting in self._counts:
            self._counts[setting] += len(pairs_of(scored, setting))  # type: ignore[arg-type]
        pairs = pairs_of(scored, self._setting)
        if not pairs:
            raise RowFaultError("tie", "all responses have the same score")
        before, system = self._prompt.turns(row), self._prompt.system_text(row)
        return [
            with_system(
                join(turns_of(good, "assistant"), turns_of(bad, "assistant"), before), system
            )
            for good, bad in pairs
        ]

    def ranking_pairs(self) -> dict[str, int]:
        """Return the pairs that each setting gives in the rows read so far."""
        return dict(self._counts)


def pairs_of(scored: _Scored, setting: PairsFromRanking) -> list[tuple[object, object]]:
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
            if (source := _source_of(head, index, name)) is not None
        ),
        None,
    )
    return None if source is None else RankedList(head, source)


def recognise_numbered(head: Head) -> Shape | None:
    """Return the shape of a file with three or more numbered responses and scores, else None."""
    for stem in ("response", "answer", "completion", "output", "generation", "candidate"):
        found = [
            (answer, score)
            for number in range(MOST_NUMBERED)
            if (answer := head.find(f"{stem}_{number}", f"{stem}{number}")) is not None
            if (score := _score_beside(head, stem, number)) is not None
        ]
        if len(found) > 2:
            indices = tuple(index for both in found for index in both)
            meaning = f"“{stem}” columns with a score each, the highest is the best"
            source = _Source(_numbered(found), indices, meaning)
            return RankedList(head, source)
    return None


def _score_beside(head: Head, stem: str, number: int) -> int | None:
    names = (
        name
        for kind in ("score", "rating", "reward")
        for name in (f"{kind}_{number}", f"{kind}{number}", f"{stem}_{number}_{kind}")
    )
    return head.find(*names)


def _numbered(found: Sequence[tuple[int, int]]) -> Callable[[Row], _Scored]:
    def read(row: Row) -> _Scored:
        return [
            (number, row.cells[answer])
            for answer, score in found
            if row.cells[answer] is not None
            if (number := number_of(row.cells[score])) is not None
        ]

    return read


def recognise_rejected_list(head: Head) -> Shape | None:
    """Return the shape of a file with one chosen response and a list of rejected ones."""
    chosen, rejected = head.find("chosen"), head.find("rejected")
    if chosen is None or rejected is None or not head.most(rejected, _is_answers_or_one):
        return None

    def read(row: Row) -> _Scored:
        value = unpacked(row.cells[rejected])
        values = value if isinstance(value, list) else [value]
        good = unpacked(row.cells[chosen]) if head.most(chosen, _is_answers_or_one) else None
        best = good[0] if isinstance(good, list) and good else row.cells[chosen]
        return [(1.0, best), *((0.0, one) for one in values)]

    meaning = "“rejected” is a list, and “chosen” is better than each of it"
    return RankedList(head, _Source(read, (chosen, rejected), meaning))


def _source_of(head: Head, index: int, name: str) -> _Source | None:
    column = head.columns[index]
    for names, sign, rule in ((_SCORES, 1, "highest"), (_RANKS, -1, "lowest")):
        other = head.find(*names)
        if other is not None and other != index and head.most(other, _is_number_list):
            meaning = f"“{column}” with “{head.columns[other]}”, the {rule} is the best"
            return _Source(_beside(index, other, sign), (index, other), meaning)
    for keys, sign, rule in ((_SCORE_KEYS, 1, "highest"), (_RANK_KEYS, -1, "lowest")):
        key = next((key for key in keys if head.most(index, _has_key(key))), None)
        if key:
            meaning = f"“{column}” with its key “{key}”, the {rule} is the best"
            return _Source(_inside(index, key, sign), (index,), meaning)
    choice = head.find("choice", "best", "best_index", "chosen_index", "winner", "chosen")
    if choice is not None and head.most(choice, lambda cell: number_of(cell) is not None):
        meaning = f"“{head.columns[choice]}” is the position of the best one in “{column}”, from 0"
        return _Source(_picked(index, choice), (index, choice), meaning)
    if name in _ORDERED and head.most(index, lambda cell: len(_list(cell)) == 2):
        meaning = f"“{column}” holds the better response first"
        return _Source(lambda row: _in_order(row.cells[index]), (index,), meaning)
    return None


def _beside(index: int, other: int, sign: int) -> Callable[[Row], _Scored]:
    def read(row: Row) -> _Scored:
        answers, scores = _list(row.cells[index]), _list(row.cells[other])
        if len(answers) != len(scores):
            raise RowFaultError("no-ranking", f"{len(answers)} responses, {len(scores)} scores")
        numbers = map(number_of, scores)
        return [
            (sign * number, answer)
            for number, answer in zip(numbers, answers, strict=True)
            if number is not None
        ]

    return read


def _inside(index: int, key: str, sign: int) -> Callable[[Row], _Scored]:
    def read(row: Row) -> _Scored:
        return [
            (sign * number, answer)
            for answer in _list(row.cells[index])
            if isinstance(answer, dict) and (number := number_of(answer.get(key))) is not None
        ]

    return read


def _picked(index: int, choice: int) -> Callable[[Row], _Scored]:
    def read(row: Row) -> _Scored:
        best = number_of(row.cells[choice])
        return [(float(place == best), one) for place, one in enumerate(_list(row.cells[index]))]

    return read


def _in_order(cell: object) -> _Scored:
    return [(-float(place), answer) for place, answer in enumerate(_list(cell))]


def _list(cell: object) -> list[object]:
    value = unpacked(cell)
    return value if isinstance(value, list) else []


def _is_number_list(cell: object) -> bool:
    return any(number_of(one) is not None for one in _list(cell))


def _has_key(key: str) -> Callable[[object], bool]:
    return lambda cell: any(
        isinstance(one, dict) and number_of(one.get(key)) is not None for one in _list(cell)
    )


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
