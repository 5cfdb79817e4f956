"""Two responses and a verdict: which one is better differs by row. Floor 1; no torch."""

from __future__ import annotations

from collections.abc import Sequence

from orpo_qlora.data.columns import ColumnMapping, mapping_of
from orpo_qlora.data.messages import Message
from orpo_qlora.data.readers.rows import Row
from orpo_qlora.data.shapes.base import Head, Preference, RowFaultError, Shape
from orpo_qlora.data.shapes.content.cells import (
    is_message_list,
    is_object_text,
    text_of,
    unpacked,
)
from orpo_qlora.data.shapes.content.prompts import (
    PromptColumns,
    find_prompt,
    is_conversation,
    needs_prompt,
    response_turns,
)
from orpo_qlora.data.shapes.content.turns import join, with_system
from orpo_qlora.data.shapes.verdict.readings import chosen_verdict, find_verdict, needs_verdict
from orpo_qlora.data.shapes.verdict.two_responses import Two, find_twos, is_known, two_of
from orpo_qlora.data.shapes.verdict.values import FIRST, TIE, UNCLEAR, Verdict


class TwoAnswers(Shape):
    """Rows with two responses and a verdict."""

    name = "two answers and a verdict"

    def __init__(
        self, head: Head, two: Two, verdict: Verdict, mapping: ColumnMapping | None = None
    ) -> None:
        self._two, self._verdict = two, verdict
        self._is_reversed = bool(mapping and mapping.is_reversed)
        taken = [two.first, two.second, *verdict.indices]
        first, second = head.columns[two.first], head.columns[two.second]
        chosen_prompt = mapping.prompt if mapping else ""
        is_whole = not chosen_prompt and head.most(two.first, is_conversation)
        self._prompt = PromptColumns(None) if is_whole else find_prompt(head, taken, mapping)
        if not is_whole and self._prompt.prompt is None:
            raise needs_prompt(head, "verdict", {"first": first, "second": second})
        self._are_objects = head.most(two.first, is_object_text)
        self._are_rounds = (
            head.most(self._prompt.prompt, _is_text_list)
            and head.most(two.first, _is_text_list)
            and head.most(two.second, _is_text_list)
        )
        indices = sorted({*taken, *self._prompt.indices()})
        self.used = tuple(head.columns[index] for index in indices)
        self.mapping = mapping or mapping_of(
            {
                **self._prompt.parts(head),
                "shape": "verdict",
                "first": first,
                "second": second,
                "verdict": head.columns[verdict.indices[0]] if len(verdict.indices) == 1 else "",
            }
        )
        opposite = ", the other way round" if self._is_reversed else ""
        self.notes = (f"Two responses, “{first}” and “{second}”; {verdict.meaning}{opposite}.",)

    def preferences(self, row: Row) -> Sequence[Preference]:
        """Return the preference that the verdict of a row states."""
        side = self._verdict.read(row)
        if side in {TIE, UNCLEAR}:
            raise RowFaultError(
                "tie" if side == TIE else "unclear-verdict", self._verdict.shown(row)
            )
        first, second = (row.cells[index] for index in (self._two.first, self._two.second))
        if self._are_objects:
            first, second = unpacked(first), unpacked(second)
        good, bad = (first, second) if (side == FIRST) != self._is_reversed else (second, first)
        if self._are_rounds and self._prompt.prompt is not None:
            prompts = row.cells[self._prompt.prompt]
            preference = join(_interleaved(prompts, good), _interleaved(prompts, bad))
        else:
            before = self._prompt.turns(row)
            is_whole = self._prompt.prompt is None
            chosen, rejected = (response_turns(cell, is_whole=is_whole) for cell in (good, bad))
            preference = join(chosen, rejected, before)
        return [with_system(preference, self._prompt.system_text(row))]


def recognise(head: Head) -> Shape | None:
    """Return the shape of a file with two responses and a verdict, else None.

    Raises:
        NeedsColumns: the verdict can be read in two ways, or no column is the prompt.
    """
    for two in find_twos(head):
        verdict = find_verdict(head, two)
        if verdict is not None:
            return TwoAnswers(head, two, verdict)
        if is_known(two):
            return None
    return None


def from_mapping(head: Head, mapping: ColumnMapping) -> Shape:
    """Return the shape with the columns that the user chose.

    Raises:
        NeedsColumns: the verdict is missing or can be read in two ways.
    """
    two = two_of(head, head.columns.index(mapping.first), head.columns.index(mapping.second))
    verdict = chosen_verdict(head, two, mapping)
    if verdict is None:
        raise needs_verdict(head, two, None, "No column shows which response is better.")
    return TwoAnswers(head, two, verdict, mapping)


def _is_text_list(cell: object) -> bool:
    value = unpacked(cell)
    return (
        isinstance(value, list)
        and bool(value)
        and not is_message_list(value)
        and all(isinstance(one, str | None) for one in value)
    )


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
