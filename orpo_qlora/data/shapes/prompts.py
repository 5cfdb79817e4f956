"""The columns that make up the prompt: question, context, system message, history. Floor 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orpo_qlora.data.messages import Message
from orpo_qlora.data.readers.rows import Row
from orpo_qlora.data.shapes.base import Head, RowFaultError
from orpo_qlora.data.shapes.cells import is_message_list, messages_of, text_of, turns_of, unpacked
from orpo_qlora.data.shapes.transcripts import is_transcript, transcript_turns

NAMES = (
    "prompt", "instruction", "question", "query", "prompts", "input", "context", "conversations",
    "conversation", "messages", "dialogue", "dialog", "post", "user_prompt", "history", "info",
)  # fmt: skip
"""Columns that may hold the prompt, the likeliest first."""


@dataclass(frozen=True)
class PromptColumns:
    """Where the turns before the responses are, as column indices; None for a missing one."""

    prompt: int | None
    system: int | None = None
    context: int | None = None
    history: int | None = None

    def indices(self) -> list[int]:
        """Return the columns that are read."""
        every = (self.prompt, self.system, self.context, self.history)
        return [index for index in every if index is not None]

    def system_text(self, row: Row) -> str:
        """Return the system message of a row, empty without one."""
        return "" if self.system is None else text_of(row.cells[self.system])

    def turns(self, row: Row) -> list[Message]:
        """Return the turns before the responses, the prompt last.

        Raises:
            RowFaultError: a cell is not what it should be.
        """
        if self.prompt is None:
            return []
        cell = row.cells[self.prompt]
        if is_transcript(cell):
            turns = transcript_turns(str(cell))
            if turns[-1] == Message("assistant", ""):
                turns.pop()
        else:
            turns = turns_of(cell, "user")
        if self.context is not None and len(turns) == 1:
            context = text_of(row.cells[self.context])
            if context.strip():
                turns = [Message("user", f"{turns[0].content}\n\n{context}")]
        return [*self._earlier(row), *turns]

    def _earlier(self, row: Row) -> list[Message]:
        if self.history is None:
            return []
        return history_turns(row.cells[self.history])


def history_turns(cell: object) -> list[Message]:
    """Return earlier turns from a `history` cell: messages, or a list of [question, answer].

    Raises:
        RowFaultError: it is neither.
    """
    value = unpacked(cell)
    if value is None or value in ("", []):
        return []
    if is_message_list(value):
        return messages_of(value)
    if not isinstance(value, list):
        raise RowFaultError("bad-history", f"{value!r}"[:200])
    turns: list[Message] = []
    for pair in value:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise RowFaultError("bad-history", f"{pair!r}"[:200])
        turns += [Message("user", text_of(pair[0])), Message("assistant", text_of(pair[1]))]
    return turns


def find_prompt(head: Head, taken: Sequence[int] = ()) -> PromptColumns:
    """Find the prompt among the columns that no response uses."""
    found = [head.find(name) for name in NAMES]
    free = [index for index in found if index is not None and index not in taken]
    prompt = next((index for index in free if head.cells(index)), None)
    system = head.find("system", "system_prompt", "system_message")
    context = history = None
    if prompt is not None and prompt == head.find("instruction"):
        context = head.find("input")
    if prompt != head.find("history") and head.most(head.find("history"), is_history):
        history = head.find("history")
    return PromptColumns(prompt, system, context, history)


def is_history(cell: object) -> bool:
    """Return whether a cell holds earlier turns, or an empty list of them."""
    return isinstance(unpacked(cell), list)
