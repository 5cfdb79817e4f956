"""Ranked lists: several responses to one prompt, with scores, ranks or an order. Floor 1."""

from __future__ import annotations

from collections.abc import Sequence

from orpo_qlora.data.columns import ColumnMapping, mapping_of
from orpo_qlora.data.files.choices import PairsFromRanking
from orpo_qlora.data.readers.rows import Row
from orpo_qlora.data.shapes.base import Head, Preference, RowFaultError, Shape
from orpo_qlora.data.shapes.content.cells import unpacked
from orpo_qlora.data.shapes.content.prompts import (
    PromptColumns,
    find_prompt,
    is_conversation,
    needs_prompt,
    response_turns,
)
from orpo_qlora.data.shapes.content.turns import join, with_system
from orpo_qlora.data.shapes.ranked_by import (
    Scored,
    Source,
    are_responses,
    by_position,
    is_response_list,
    responses_of,
    source_in,
    source_of,
)
from orpo_qlora.errors import NeedsColumns

_LISTS = (
    "responses", "completions", "generations", "answers", "candidates", "outputs", "output",
    "replies", "choices", "options", "model_responses", "model_outputs", "all_responses",
    "summaries", "response", "completion", "answer", "generation", "candidate_responses",
    "candidate_answers", "candidates_completions", "samples", "all_generated_responses",
)  # fmt: skip
_ORDERED = ("output", "outputs")


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
            if (index := head.find(name)) is not None and head.most(index, are_responses)
            if (source := source_of(head, index) or _better_first(head, index, name)) is not None
        ),
        None,
    )
    return None if source is None else RankedList(head, source)


def unordered_list(head: Head) -> str:
    """Return the column that holds several responses to one prompt, empty without one."""
    found = (head.find(name) for name in _LISTS)
    return next(
        (head.columns[at] for at in found if at is not None and head.most(at, are_responses)), ""
    )


def _hold_conversations(head: Head, source: Source) -> bool:
    return head.most(
        source.indices[0], lambda cell: any(map(is_conversation, responses_of(cell) or [cell]))
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
        source = source_in(head, index, head.columns.index(mapping.scores))
    else:
        source = source_of(head, index) or by_position(head, index)
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
        good = unpacked(row.cells[chosen]) if head.most(chosen, is_response_list) else None
        best = good[0] if isinstance(good, list) and good else row.cells[chosen]
        return [(1.0, best), *((0.0, one) for one in values)]

    good, bad = head.columns[chosen], head.columns[rejected]
    meaning = f"“{bad}” is a list, and “{good}” is better than each of it"
    shape = RankedList(head, Source(read, (chosen, rejected), meaning), mapping)
    shape.mapping = mapping or shape.pairs_mapping(head, good, bad)
    return shape


def _has_lists(head: Head, index: int) -> bool:
    filled = [cell for cell in head.cells(index) if unpacked(cell) != []]
    return bool(filled) and sum(map(is_response_list, filled)) * 2 > len(filled)


def _better_first(head: Head, index: int, name: str) -> Source | None:
    is_two = name in _ORDERED and head.most(index, lambda cell: len(responses_of(cell)) == 2)
    return by_position(head, index) if is_two else None
