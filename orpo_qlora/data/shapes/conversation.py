"""A conversation whose last response is chosen, and the rejected one beside it. Floor 1.

ms-swift: `messages` with `rejected_response` or `rejected_messages`. OpenAI: `input.messages` with
`preferred_output` and `non_preferred_output`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from orpo_qlora.data.column_names import good_and_bad
from orpo_qlora.data.columns import SYNONYMS, ColumnMapping
from orpo_qlora.data.readers.rows import Row
from orpo_qlora.data.shapes.base import Head, Preference, RowFaultError, Shape
from orpo_qlora.data.shapes.content.cells import is_message_list, messages_of, turns_of, unpacked
from orpo_qlora.data.shapes.content.prompts import PromptColumns, find_history, history_turns
from orpo_qlora.data.shapes.content.tools import tools_of
from orpo_qlora.data.shapes.content.turns import join, with_system, without_empty_end

_CONVERSATIONS = (
    "messages", "conversations", "conversation", "chosen_messages", "dialogue", "dialog",
)  # fmt: skip
_REJECTED = (
    "rejected_response",
    "rejected_messages",
    "rejected_answer",
    "rejected",
    "rejected_output",
    "rejected_responses",
    "negative_messages",
    "negative_response",
    "negative",
    "dispreferred_response",
    "bad_response",
    "worse_response",
)


class ChosenInMessages(Shape):
    """Messages that end with the chosen response, and a rejected response."""

    name = "messages with a rejected response"

    def __init__(
        self, head: Head, messages: int, rejected: int, mapping: ColumnMapping | None = None
    ) -> None:
        self._messages, self._rejected = messages, rejected
        self._most = 1 if head.pairs_from_ranking == "best_worst" else None
        system = head.find(*SYNONYMS["system"])
        if mapping is not None:
            system = head.columns.index(mapping.system) if mapping.system else None
        self._columns = PromptColumns(None, system, None, find_history(head, (messages, rejected)))
        self.mapping = mapping or ColumnMapping(
            prompt=head.columns[messages],
            rejected=head.columns[rejected],
            system="" if system is None else head.columns[system],
            shape="conversation",
        )
        indices = sorted({messages, rejected, *self._columns.indices()})
        self.used = tuple(head.columns[index] for index in indices)
        self.notes = (
            f"The last turn of “{head.columns[messages]}” is chosen, "
            f"“{head.columns[rejected]}” is rejected.",
        )

    def preferences(self, row: Row) -> Sequence[Preference]:
        """Return the preference of a row."""
        chosen = without_empty_end(messages_of(row.cells[self._messages]), "user")
        before = []
        if self._columns.history is not None:
            before = history_turns(row.cells[self._columns.history])
        preferences = []
        for cell in _each_response(row.cells[self._rejected])[: self._most]:
            rejected = turns_of(cell, "assistant")
            if not chosen or not rejected:
                raise RowFaultError("bad-turns")
            preferences.append(join([*before, *chosen], [*before, *rejected]))
        system = self._columns.system_text(row)
        return [with_system(preference, system) for preference in preferences]


class OpenAIPreference(Shape):
    """OpenAI's preference files: an input with messages and two outputs."""

    name = "OpenAI preference"

    def __init__(self, head: Head, messages: int, chosen: int, rejected: int) -> None:
        self._input, self._chosen, self._rejected = messages, chosen, rejected
        self.used = tuple(head.columns[index] for index in (messages, chosen, rejected))
        self.mapping = ColumnMapping(self.used[0], self.used[1], self.used[2])

    def preferences(self, row: Row) -> Sequence[Preference]:
        """Return the preference of a row."""
        value = unpacked(row.cells[self._input])
        tools = tools_of(value.get("tools")) if isinstance(value, dict) else ""
        chosen, rejected = (
            turns_of(row.cells[index], "assistant") for index in (self._chosen, self._rejected)
        )
        preference = join(chosen, rejected, turns_of(value, "user"))
        if tools:
            preference = preference._replace(tool_use=replace(preference.tool_use, tools=tools))
        return [preference]


def recognise(head: Head) -> Shape | None:
    """Return the shape of a file of conversations with a rejected response, else None."""
    first = head.find("input", "prompt", "messages")
    good, bad = head.find("preferred_output"), head.find("non_preferred_output")
    if first is not None and good is not None and bad is not None:
        return OpenAIPreference(head, first, good, bad)
    messages, rejected = head.find(*_CONVERSATIONS), head.find(*_REJECTED)
    has_chosen = "chosen" in good_and_bad(head.columns)
    if messages is None or rejected is None or has_chosen:
        return None
    if not head.most(messages, is_message_list) or head.most(messages, _is_open):
        return None
    return ChosenInMessages(head, messages, rejected)


def _each_response(cell: object) -> list[object]:
    """Return the rejected responses of a cell: one, or a list of texts or of conversations."""
    value = unpacked(cell)
    if not isinstance(value, list) or not all(isinstance(one, str | list) for one in value):
        return [cell]
    return list(value) or [""]


def _is_open(cell: object) -> bool:
    """Return whether messages end with the user: the chosen response is elsewhere."""
    try:
        turns = messages_of(cell)
    except RowFaultError:
        return False
    return bool(turns) and turns[-1].role == "user" and bool(turns[-1].content.strip())


def from_mapping(head: Head, mapping: ColumnMapping) -> Shape:
    """Return the shape with the columns that the user chose."""
    messages, rejected = (head.columns.index(name) for name in (mapping.prompt, mapping.rejected))
    return ChosenInMessages(head, messages, rejected, mapping)
