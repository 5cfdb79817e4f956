"""The columns that make up the prompt: question, context, system message, history. Floor 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orpo_qlora.data.column_names import words_of
from orpo_qlora.data.columns import SYNONYMS, ColumnMapping, ShapeName
from orpo_qlora.data.messages import Message, Role
from orpo_qlora.data.readers.rows import Row
from orpo_qlora.data.shapes.base import Head, RowFaultError
from orpo_qlora.data.shapes.content.cells import (
    is_message_list,
    is_object_text,
    is_part_list,
    messages_of,
    text_of,
    turns_of,
    unpacked,
)
from orpo_qlora.data.shapes.content.transcripts import is_transcript, transcript_turns
from orpo_qlora.data.wording import listed
from orpo_qlora.errors import NeedsColumns

NAMES = (
    "prompt", "instruction", "question", "query", "prompts", "input", "context", "conversations",
    "conversation", "messages", "dialogue", "dialog", "post", "user_prompt", "history", "info",
    "contents", "user", "user_message", "user_input", "human", "problem", "goal", "x",
    "text",
)  # fmt: skip
"""Columns that may hold the prompt, the likeliest first."""
_HISTORIES = (
    "history", "chat_history", "conversation_history", "dialogue_history", "dialog_history",
    "message_history", "previous_turns", "previous_messages", "prior_turns", "past_messages",
    "earlier_turns", "prompt_history", "past_turns",
)  # fmt: skip
_CONTEXTS = ("context", "previous", "earlier")
"""Columns that may as well hold a text about the prompt."""


_PARALLEL = ("src", "tgt")
"""Columns of all prompts and of the replies to all but the last, as PaddleNLP writes them."""
_PROMPT_WORDS = {"prompt", "instruction", "question", "query", "task"}
_ABOUT_PROMPTS = {"id", "type", "source", "model", "tokens", "length", "lang", "language", "hash",
                  "category", "dataset", "name", "system", "url"}  # fmt: skip


@dataclass(frozen=True)
class PromptColumns:
    """Where the turns before the responses are, as column indices; None for a missing one."""

    prompt: int | None
    system: int | None = None
    context: int | None = None
    history: int | None = None
    replies: int | None = None
    """Replies to all prompts of a list but the last, beside it."""
    is_object: bool = False
    """Whether the prompt is an object as Python prints it."""

    def indices(self) -> list[int]:
        """Return the columns that are read."""
        every = (self.prompt, self.system, self.context, self.history, self.replies)
        return [index for index in every if index is not None]

    def parts(self, head: Head) -> dict[str, str]:
        """Return the columns by the part of a `ColumnMapping`."""
        found = {"prompt": self.prompt, "system": self.system, "context": self.context}
        return {part: "" if at is None else head.columns[at] for part, at in found.items()}

    def system_text(self, row: Row) -> str:
        """Return the system message of a row, empty without one."""
        return "" if self.system is None else system_of(row.cells[self.system])

    def turns(self, row: Row) -> list[Message]:
        """Return the turns before the responses, the prompt last.

        Raises:
            RowFaultError: a cell is not what it should be.
        """
        if self.prompt is None:
            return []
        cell = row.cells[self.prompt]
        if self.replies is not None:
            return rounds_of(cell, row.cells[self.replies])
        if is_transcript(cell):
            turns = transcript_turns(str(cell))
            if turns[-1] == Message("assistant", ""):
                turns.pop()
        else:
            turns = turns_of(unpacked(cell) if self.is_object else cell, "user")
        if self.context is not None and len(turns) == 1:
            context = text_of(row.cells[self.context])
            if context.strip():
                turns = [Message("user", f"{turns[0].content}\n\n{context}")]
        return [*self._earlier(row, turns), *turns]

    def _earlier(self, row: Row, turns: Sequence[Message]) -> list[Message]:
        if self.history is None:
            return []
        return earlier_turns(row.cells[self.history], turns)


def system_of(cell: object) -> str:
    """Return a system message: a text, a message, or a list of content parts.

    Raises:
        RowFaultError: it is something else.
    """
    value = unpacked(cell)
    if (isinstance(cell, dict | list) and cell) or is_part_list(value) or is_message_list(cell):
        return turns_of(value, "system")[0].content
    return text_of(cell or None)


def rounds_of(prompts: object, replies: object) -> list[Message]:
    """Return parallel lists of prompts and replies as turns; the last prompt has no reply.

    Raises:
        RowFaultError: their numbers do not fit.
    """
    asked, given = (_texts(cell) for cell in (prompts, replies))
    if len(given) != len(asked) - 1:
        raise RowFaultError("bad-turns", f"{len(asked)} prompts, {len(given)} replies")
    turns = [Message("user", asked[0])]
    for reply, prompt in zip(given, asked[1:], strict=True):
        turns += [Message("assistant", reply), Message("user", prompt)]
    return turns


def _texts(cell: object) -> list[str]:
    value = unpacked(cell)
    if isinstance(value, list):
        return [text_of(one) for one in value]
    return [text_of(value)] if value else []


def find_history(head: Head, taken: Sequence[int | None] = ()) -> int | None:
    """Return the column of the turns before the prompt, if there is one."""
    found = [index for name in _HISTORIES if (index := head.find(name)) is not None]
    found = [index for index in found if index not in taken]
    talks = [index for name in _CONTEXTS if (index := head.find(name)) is not None]
    found += [index for index in talks if index not in taken and _are_turns(head, index)]
    return next((index for index in found if head.most(index, is_history)), None)


def _are_turns(head: Head, index: int) -> bool:
    filled = [cell for cell in head.cells(index) if unpacked(cell) != []]
    return bool(filled) and all(map(is_message_list, filled))


def _is_plain(cell: object) -> bool:
    return isinstance(cell, str) and not isinstance(unpacked(cell), list | dict)


def earlier_turns(cell: object, turns: Sequence[Message]) -> list[Message]:
    """Return the turns of a history without a last one that only repeats the prompt.

    Raises:
        RowFaultError: the cell holds no turns.
    """
    earlier = history_turns(cell)
    repeats = bool(earlier) and bool(turns) and earlier[-1] == turns[0]
    return earlier[:-1] if repeats else earlier


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
    if all(isinstance(one, str) for one in value) and len(value) % 2 == 0:
        roles: tuple[Role, Role] = ("user", "assistant")
        return [Message(roles[place % 2], text) for place, text in enumerate(value)]
    turns: list[Message] = []
    for pair in value:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise RowFaultError("bad-history", f"{pair!r}"[:200])
        turns += [Message("user", text_of(pair[0])), Message("assistant", text_of(pair[1]))]
    return turns


def find_prompt(
    head: Head, taken: Sequence[int] = (), mapping: ColumnMapping | None = None
) -> PromptColumns:
    """Find the prompt among the columns that no response uses.

    Args:
        head: the columns and first rows.
        taken: columns of the responses and what rates them.
        mapping: columns that the user chose.
    """
    pair = [head.find(name) for name in _PARALLEL]
    if mapping is None and None not in pair and not set(pair) & set(taken):
        system = head.find(*SYNONYMS["system"])
        return PromptColumns(pair[0], system, replies=pair[1])
    names = (*_beside_responses(head, taken), *NAMES)
    found = [head.find(name) for name in names]
    free = [index for index in found if index is not None and index not in taken]
    prompt = next((index for index in free if head.cells(index)), None)
    if prompt is None:
        prompt = _similar(head, taken)
    system = head.find(*SYNONYMS["system"])
    context = None
    if prompt is not None and prompt == head.find("instruction"):
        context = head.find("input")
    about = head.find("context")
    if context is None and about not in {prompt, *taken} and head.most(about, _is_plain):
        context = about
    if mapping is not None:
        columns = (mapping.prompt, mapping.system, mapping.context)
        prompt, system, context = (head.columns.index(name) if name else None for name in columns)
    history = find_history(head, [index for index in (*taken, prompt) if index is not None])
    if history == context:
        context = None
    is_object = head.most(prompt, is_object_text)
    return PromptColumns(prompt, system, context, history, is_object=is_object)


def _beside_responses(head: Head, taken: Sequence[int]) -> list[str]:
    """Return names of a prompt with the first word that all taken columns share.

    “orig_instruction” belongs to “orig_response_A”; “instruction” may be a judge's beside it.
    """
    firsts = {(words_of(head.columns[index]) or [""])[0] for index in taken}
    lead = firsts.pop() if len(firsts) == 1 else ""
    return [f"{lead}_{name}" for name in NAMES] if lead else []


def _similar(head: Head, taken: Sequence[int]) -> int | None:
    """Return the one column whose name has a word for a prompt, such as “user_question”."""
    hits = [
        index
        for index, column in enumerate(head.columns)
        if index not in taken and head.cells(index)
        if set(words_of(column)) & _PROMPT_WORDS and not set(words_of(column)) & _ABOUT_PROMPTS
        if set(words_of(column)) != {"task"} or head.most(index, _is_sentence)
    ]
    return hits[0] if len(hits) == 1 else None


def _is_sentence(cell: object) -> bool:
    # “task” may as well hold a category, such as “summarization”.
    return not isinstance(cell, str) or len(cell.split()) > 3


def similar_prompt(mapping: ColumnMapping, head: Head) -> str:
    """Return the column that is the prompt by its name, for a mapping without one, or nothing."""
    taken = [head.columns.index(column) for part, column in mapping.parts() if part != "context"]
    found = find_prompt(head, taken).prompt
    return "" if found is None else head.columns[found]


def needs_prompt(head: Head, shape: ShapeName, found: dict[str, str]) -> NeedsColumns:
    """Return the error that asks for the column of the prompt."""
    return NeedsColumns(
        f"No column is the prompt; the columns are {listed(list(head.columns))}.",
        where=head.where_named,
        hint="Choose it with --map prompt=COLUMN.",
        columns=head.columns,
        has_header=head.has_header,
        found={"shape": shape, **found},
    )


def is_conversation(cell: object) -> bool:
    """Return whether a response holds the whole conversation: several messages, or a transcript."""
    value = unpacked(cell)
    if isinstance(value, list):
        return len(value) > 1 and is_message_list(value)
    return is_transcript(cell)


def response_turns(cell: object, *, is_whole: bool) -> list[Message]:
    """Return a response as turns, the last one its own.

    Raises:
        RowFaultError: the cell is neither text nor messages.
    """
    if is_whole and is_transcript(cell):
        return transcript_turns(str(cell))
    return turns_of(cell, "assistant")


def is_history(cell: object) -> bool:
    """Return whether a cell holds earlier turns, or an empty list of them."""
    return isinstance(unpacked(cell), list)
