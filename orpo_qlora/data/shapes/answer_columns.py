"""One column of chosen and one of rejected responses: texts, transcripts, or messages. Floor 1."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace

from orpo_qlora.data.columns import GUARD_COLUMN, ColumnMapping
from orpo_qlora.data.messages import Message
from orpo_qlora.data.readers.rows import Row
from orpo_qlora.data.shapes.base import Head, Preference, RowFaultError, Shape
from orpo_qlora.data.shapes.content.cells import (
    answer_object_key,
    is_message_list,
    is_object_text,
    is_part_list,
    messages_of,
    text_of,
    turns_of,
    unpacked,
)
from orpo_qlora.data.shapes.content.prompts import earlier_turns, find_history, system_of
from orpo_qlora.data.shapes.content.rounds import messages_of_rounds
from orpo_qlora.data.shapes.content.transcripts import (
    is_open_transcript,
    is_transcript,
    markup_of,
    transcript_turns,
    without_endings,
)
from orpo_qlora.data.shapes.content.turns import join, preference_of, with_system

_RESPONSES = ("chosen", "rejected")
TEXT, DIALOGUE, MESSAGES = "text", "dialogue", "messages"
_GUARDED = re.compile(r"\A'(?='*[=+\-@\t\r])")
_BEGINNINGS = (
    "initial_reason_steps", "response_prefix", "answer_prefix", "assistant_prefix",
    "partial_response", "response_start", "response_beginning",
)  # fmt: skip
"""Columns with the text that both responses continue."""
_CONVERSATIONS = ("conversations", "conversation", "messages", "trajectory", "context", "dialogue")


class AnswerColumns(Shape):
    """Rows with a chosen and a rejected response in columns of their own."""

    def __init__(self, mapping: ColumnMapping, head: Head) -> None:
        columns = list(head.columns)
        self._positions = {part: columns.index(column) for part, column in mapping.parts()}
        if "prompt" in self._positions and self._are_transcripts(head):
            # Both hold the whole dialogue, so the prompt beside them is a copy of its part.
            del self._positions["prompt"]
            mapping = replace(mapping, prompt="", context="")
        self.mapping = mapping
        self._conversation = self._find_conversation(head)
        taken = [at for part, at in self._positions.items() if part != "context"]
        self._history = find_history(head, [*taken, self._conversation])
        if self._history is not None and self._history == self._positions.get("context"):
            del self._positions["context"]
            self.mapping = mapping = replace(mapping, context="")
        self._lists = frozenset(
            part
            for part in ("prompt", "chosen", "rejected")
            if part in self._positions and head.most(self._positions[part], is_message_list)
        )
        if not all(head.most(self._positions[part], is_message_list) for part in _RESPONSES):
            # A response may be JSON that looks like rounds: they are turns where both are.
            self._lists -= {part for part in _RESPONSES if self._are_rounds(head, part)}
        self._objects = frozenset(
            part
            for part in ("prompt", "chosen", "rejected")
            if part in self._positions and head.most(self._positions[part], _is_object)
        )
        self.name = self._kind(head)
        self._guard = columns.index(GUARD_COLUMN) if GUARD_COLUMN in columns else None
        cells = [cell for part in sorted(self._lists) for cell in head.cells(self._positions[part])]
        self.has_python_lists = any(map(_is_python_list, cells))
        if self._conversation is not None:
            self.notes = (
                f"The turns before the responses are in “{columns[self._conversation]}”.",
            )
        if self.name == DIALOGUE and "prompt" not in self._positions:
            self.notes = (_transcript_note(head, self._positions["chosen"]),)
        self._beginning = head.find(*_BEGINNINGS)
        if self._beginning is not None:
            self.notes += (f"Both responses continue “{columns[self._beginning]}”.",)
        more = (self._history, self._conversation, self._beginning)
        extra = [index for index in more if index is not None]
        self.used = (*(column for _, column in mapping.parts()), *(columns[i] for i in extra))

    def _are_rounds(self, head: Head, part: str) -> bool:
        return head.most(
            self._positions[part],
            lambda cell: isinstance(cell, str) and messages_of_rounds(unpacked(cell)) is not None,
        )

    def _are_transcripts(self, head: Head) -> bool:
        return all(
            head.most(self._positions[part], is_transcript) for part in ("chosen", "rejected")
        )

    def _find_conversation(self, head: Head) -> int | None:
        """Return the column of turns before the responses, where no column is the prompt."""
        if "prompt" in self._positions:
            return None
        found = [head.find(name) for name in _CONVERSATIONS]
        return next((index for index in found if head.most(index, is_message_list)), None)

    def _kind(self, head: Head) -> str:
        """Return the name of the shape, empty where no column holds the prompt."""
        if self._lists or self._conversation is not None:
            return MESSAGES
        has_prompt = "prompt" in self._positions
        part, test = ("prompt", is_open_transcript) if has_prompt else ("chosen", is_transcript)
        if head.most(self._positions[part], test):
            return DIALOGUE
        return TEXT if has_prompt else ""

    def preferences(self, row: Row) -> Sequence[Preference]:
        """Return the one preference of a row."""
        cells = {part: row.cells[index] for part, index in self._positions.items()}
        if self._guard is not None and row.cells[self._guard] == "yes":
            cells = {part: _unguarded(cell) for part, cell in cells.items()}
        preference = self._read(cells, row)
        if self._beginning is not None:
            preference = _continued(text_of(row.cells[self._beginning]), preference)
        if self._history is not None:
            preference = _after(row.cells[self._history], preference)
        try:
            system = system_of(cells.get("system"))
        except RowFaultError as exc:
            raise self._with_column(exc, "system") from exc
        return [with_system(preference, system)]

    def _read(self, cells: dict[str, object], row: Row) -> Preference:
        if self._has_messages(cells):
            return self._read_messages(cells, row)
        if self.name == TEXT:
            context = self._text("context", cells)
            prompt = self._text("prompt", cells)
            prompt = f"{prompt}\n\n{context}" if context.strip() else prompt
            return Preference(
                (), prompt, self._text("chosen", cells), self._text("rejected", cells)
            )
        if self.name == DIALOGUE:
            return self._read_dialogue(cells)
        return self._read_messages(cells, row)

    def _read_dialogue(self, cells: dict[str, object]) -> Preference:
        chosen, rejected = (self._text(part, cells) for part in ("chosen", "rejected"))
        if "prompt" not in cells:
            return join(transcript_turns(chosen), transcript_turns(rejected))
        prompt = self._text("prompt", cells)
        turns = transcript_turns(prompt)
        if turns[-1] == Message("assistant", ""):
            turns.pop()
        markup = markup_of(prompt)
        if markup and markup.endings:
            chosen, rejected = (without_endings(text, markup) for text in (chosen, rejected))
        return preference_of(turns, chosen, rejected)

    def _read_messages(self, cells: dict[str, object], row: Row) -> Preference:
        chosen, rejected = (
            self._messages(part, cells)
            if self._is_list(part, cells)
            else [Message("assistant", self._text(part, cells))]
            for part in ("chosen", "rejected")
        )
        if self._conversation is not None:
            return join(chosen, rejected, messages_of(row.cells[self._conversation]))
        if self._is_list("prompt", cells):
            return join(chosen, rejected, self._messages("prompt", cells))
        prompt = self._text("prompt", cells)
        last = [turn for turn in chosen if turn.role == "user" and turn.content.strip()]
        if not last:
            return join(chosen, rejected, [Message("user", prompt)])
        if not _is_prompt_of(prompt, chosen):
            raise RowFaultError("different-prompts")
        return join(chosen, rejected)

    def _has_messages(self, cells: dict[str, object]) -> bool:
        """Return whether a row has messages in a file of texts: rows of two sources are mixed."""
        if self.name == MESSAGES:
            return False
        parts = [cells.get(part) for part in ("prompt", "chosen", "rejected")]
        return any(not isinstance(cell, str) and is_message_list(cell) for cell in parts)

    def _is_list(self, part: str, cells: dict[str, object]) -> bool:
        """Return whether a row has messages there; a file of messages may have rows of text."""
        cell = cells.get(part)
        if isinstance(cell, str):
            is_text = bool(cell.strip()) and not cell.lstrip().startswith(("[", "{", "array("))
            return part in self._lists and not is_text
        return part in self._lists or (cell is not None and is_message_list(cell))

    def _messages(self, part: str, cells: dict[str, object]) -> list[Message]:
        try:
            return messages_of(cells[part])
        except RowFaultError as exc:
            raise self._with_column(exc, part) from exc

    def _text(self, part: str, cells: dict[str, object]) -> str:
        cell = cells.get(part)
        try:
            if part in self._objects and (not isinstance(cell, str) or is_object_text(cell)):
                return turns_of(unpacked(cell), "user")[-1].content
            return text_of(cell)
        except RowFaultError as exc:
            raise self._with_column(exc, part) from exc

    def _with_column(self, fault: RowFaultError, part: str) -> RowFaultError:
        column = dict(self.mapping.parts())[part] if self.mapping else part
        return RowFaultError(fault.reason, f"column “{column}”: {fault.detail}")


def _continued(beginning: str, preference: Preference) -> Preference:
    """Return a preference whose responses begin with a text, unless they do."""
    chosen, rejected = (
        text if text.startswith(beginning) else beginning + text
        for text in (preference.chosen, preference.rejected)
    )
    return preference._replace(chosen=chosen, rejected=rejected)


def _after(history: object, preference: Preference) -> Preference:
    """Return a preference with the turns of a history cell in front, unless it has them."""
    now = [*preference.earlier, Message("user", preference.prompt)]
    earlier = earlier_turns(history, now)
    if now[: len(earlier)] == earlier:
        return preference
    joined = preference_of([*earlier, *now], preference.chosen, preference.rejected)
    return preference._replace(earlier=joined.earlier)


def _is_prompt_of(prompt: str, turns: Sequence[Message]) -> bool:
    """Return whether a prompt beside a whole conversation is one of its turns, or holds its last.

    Files with several turns repeat the first question there, the last one, or all that came before.
    """
    asked = [turn.content.strip() for turn in turns if turn.role == "user" and turn.content.strip()]
    prompt = prompt.strip()
    return not prompt or prompt in asked or asked[-1] in prompt


def _transcript_note(head: Head, chosen: int) -> str:
    markups = [markup.name for cell in head.cells(chosen) if (markup := markup_of(cell))]
    names = ", ".join(dict.fromkeys(markups))
    return f"Whole transcripts ({names}): the turns that both share are the prompt."


def _is_object(cell: object) -> bool:
    return is_part_list(cell) or bool(answer_object_key(cell)) or is_object_text(cell)


def _unguarded(cell: object) -> object:
    return _GUARDED.sub("", cell) if isinstance(cell, str) else cell


def _is_python_list(cell: object) -> bool:
    if not isinstance(cell, str) or not is_message_list(cell):
        return False
    try:
        json.loads(cell)
    except (ValueError, RecursionError):
        return True
    return False
