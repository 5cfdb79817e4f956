"""Single responses with a good or bad label, alone or paired per prompt. Floor 1; no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

from orpo_qlora.data.columns import ColumnMapping, mapping_of
from orpo_qlora.data.files.choices import Labelled
from orpo_qlora.data.messages import Message
from orpo_qlora.data.readers.rows import Row
from orpo_qlora.data.shapes.base import Candidate, Head, Preference, RowFaultError, Shape
from orpo_qlora.data.shapes.content.cells import is_message_list, turns_of
from orpo_qlora.data.shapes.content.prompts import PromptColumns, find_prompt, needs_prompt
from orpo_qlora.data.shapes.content.turns import join, with_system
from orpo_qlora.data.shapes.verdict.values import label_of, number_of
from orpo_qlora.data.spool import Spool
from orpo_qlora.data.wording import plural

_ANSWERS = ("completion", "response", "answer", "output", "messages", "conversations", "text")
_LABELS = (
    "label", "labels", "kto_tag", "desirable", "is_desirable", "is_good", "good", "is_chosen",
    "thumbs_up", "thumbs", "feedback", "accepted", "is_preferred",
)  # fmt: skip
_MAYBE_LABELS = (
    "status", "tag", "quality", "rating", "verdict", "class", "category", "type", "preference",
    "judgement", "judgment", "choice",
)  # fmt: skip
"""Columns that are a label only if they hold words such as “chosen” and “rejected”."""
KTO = "Single responses with a label suit the method kto, which needs no pairs."


class LabelledAnswers(Shape):
    """Rows with one response and a label.

    Each is used on its own, or a prompt with both labels gives a pair.
    """

    name = "labelled single answers"

    def __init__(
        self, head: Head, answer: int, label: int, mapping: ColumnMapping | None = None
    ) -> None:
        self._answer, self._label = answer, label
        self._is_single = head.labelled == "single"
        self._pairs = self._responses = 0
        self._is_reversed = bool(mapping and mapping.is_reversed)
        is_whole = head.most(answer, is_message_list)
        found = find_prompt(head, (answer, label), mapping)
        columns = {"responses": head.columns[answer], "label": head.columns[label]}
        if found.prompt is None and not is_whole:
            raise needs_prompt(head, "labelled", columns)
        self._prompt = (
            PromptColumns(None, found.system) if is_whole and found.prompt is None else found
        )
        self.mapping = mapping or mapping_of(
            {**self._prompt.parts(head), "shape": "labelled", **columns}
        )
        indices = sorted({answer, label, *self._prompt.indices()})
        self.used = tuple(head.columns[index] for index in indices)
        self._lead = f"“{head.columns[answer]}” is labelled good or bad by “{head.columns[label]}”"

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]  # known once the rows are read
        """How the file was understood, with what the other reading gives."""
        pairs, single = plural(self._pairs, "pair"), plural(self._responses, "response")
        if self._is_single:
            other = f" Read as pairs, they give {pairs}." if self._pairs else " None can be paired."
            return (
                f"{self._lead}: each is used on its own, which only the method kto can do.{other}",
            )
        return (
            f"{self._lead}: rows of one prompt with both labels become pairs. The method kto uses "
            f"{single} instead, paired or not; --labelled single and “Single responses” show them.",
        )

    def labelled_counts(self) -> dict[Labelled, int]:
        """Return the pairs and the single responses, before the data checks."""
        return {"pairs": self._pairs, "single": self._responses}

    def candidates(self, rows: Iterator[Row]) -> Iterator[Candidate]:
        """Yield each response, or each pair as soon as its second row is read.

        Unpaired rows follow at the end.
        """
        waiting: dict[tuple[int, bool], list[int]] = {}
        texts: Spool[_Labelled] = Spool(_packed, _unpacked)
        for row in rows:
            if row.fault:
                yield Candidate(row, "broken-rows")
                continue
            try:
                turns, is_good = self._read(row)
            except RowFaultError as exc:
                yield Candidate(row, exc.reason, exc.detail)
                continue
            self._responses += 1
            key = hash(tuple((turn.role, turn.text.strip()) for turn in turns[:-1]))
            others = waiting.get((key, not is_good))
            self._pairs += bool(others)
            if self._is_single:
                yield _single(row, turns, is_good=is_good)
            if not others:
                waiting.setdefault((key, is_good), []).append(len(texts))
                texts.append((row.number, row.line, [] if self._is_single else turns))
                continue
            number, line, other = texts[others.pop(0)]
            if not self._is_single:
                chosen, rejected = (turns, other) if is_good else (other, turns)
                yield _paired(Row((), number, line), chosen, rejected)
        if self._is_single:
            return
        for place in sorted(place for places in waiting.values() for place in places):
            number, line, turns = texts[place]
            yield Candidate(Row((), number, line), "unpaired-label", turns[-2].content)

    def _read(self, row: Row) -> tuple[list[Message], bool]:
        """Return the turns of a row, the response last, and its label."""
        is_good = label_of(row.cells[self._label])
        if is_good is None:
            raise RowFaultError("unclear-verdict", f"{row.cells[self._label]}"[:200])
        answer = turns_of(row.cells[self._answer], "assistant")
        preference = join(answer, answer, self._prompt.turns(row))
        preference = with_system(preference, self._prompt.system_text(row))
        prompt = Message("user", preference.prompt)
        turns = [*preference.earlier, prompt, *preference.tool_use.steps, answer[-1]]
        return turns, is_good != self._is_reversed

    def preferences(self, row: Row) -> Sequence[Preference]:
        """A row alone has none."""
        raise RowFaultError("unpaired-label")


_Labelled = tuple[int, int, list[Message]]


def _packed(item: _Labelled) -> bytes:
    number, line, turns = item
    return json.dumps([number, line, [turn.fields() for turn in turns]]).encode()


def _unpacked(data: bytes) -> _Labelled:
    number, line, turns = json.loads(data)
    return number, line, [Message(**turn) for turn in turns]


def _paired(row: Row, chosen: list[Message], rejected: list[Message]) -> Candidate:
    try:
        return Candidate(row, join(chosen, rejected))
    except RowFaultError as exc:
        return Candidate(row, exc.reason, exc.detail)


def _single(row: Row, turns: list[Message], *, is_good: bool) -> Candidate:
    found = _paired(row, turns, turns)
    if isinstance(found.found, str):
        return found
    use = found.found.tool_use
    if is_good:
        alone = found.found._replace(
            rejected="", single="chosen", tool_use=replace(use, rejected_calls="")
        )
    else:
        alone = found.found._replace(
            chosen="", single="rejected", tool_use=replace(use, chosen_calls="")
        )
    return Candidate(row, alone)


def recognise(head: Head) -> Shape | None:
    """Return the shape of a file of labelled single responses, else None."""
    answer, label = head.find(*_ANSWERS), head.find(*_LABELS)
    if label is None:
        found = (head.find(name) for name in _MAYBE_LABELS)
        label = next((at for at in found if at is not None and _has_both_words(head, at)), None)
    if answer is None or label is None:
        return None
    cells = head.cells(label)
    if not cells or any(label_of(cell) is None for cell in cells):
        return None
    if find_prompt(head, (answer, label)).prompt is None and not head.most(answer, is_message_list):
        return None  # texts with a class, not responses
    return LabelledAnswers(head, answer, label)


def _has_both_words(head: Head, index: int) -> bool:
    words = [cell for cell in head.cells(index) if isinstance(cell, str)]
    return {label_of(word) for word in words if number_of(word) is None} >= {True, False}


def from_mapping(head: Head, mapping: ColumnMapping) -> Shape:
    """Return the shape with the columns that the user chose."""
    answer, label = head.columns.index(mapping.responses), head.columns.index(mapping.label)
    return LabelledAnswers(head, answer, label, mapping)
