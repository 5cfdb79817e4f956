"""How a preference stands in a row: texts, whole dialogues, or lists of messages. Floor 1.

No torch. A row is read into the turns before the answers and the two answers, or into the reason
why it cannot be.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

from orpo_qlora.data.columns import GUARD_COLUMN, ColumnMapping
from orpo_qlora.data.messages import Message, Role
from orpo_qlora.data.readers.rows import Row

HEAD_ROWS = 20
"""First rows that decide about the shape of all."""
CELL_LITERAL_CHARACTERS = 1_000_000
"""Longest Python list that is read; the reader of literals needs a multiple of it in memory."""

_Test = Callable[[object], bool]
TEXT, DIALOGUE, MESSAGES = "text", "dialogue", "messages"
_SPEAKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
_GUARDED = re.compile(r"\A'(?='*[=+\-@\t\r])")
_ROLES = {
    "system": "system", "user": "user", "assistant": "assistant", "human": "user",
    "gpt": "assistant",
}  # fmt: skip
_SPOKEN: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}


class Preference(NamedTuple):
    """What a row says, before anyone judges it."""

    earlier: tuple[Message, ...]
    prompt: str
    chosen: str
    rejected: str


class _FaultyError(Exception):
    """The row is no preference; the argument is the id of one of `DROPS`."""


@dataclass(frozen=True)
class Shape:
    """How to read each row of one file."""

    name: str
    """`text`, `dialogue` or `messages`."""
    _positions: dict[str, int]
    _lists: frozenset[str] = frozenset()
    """Parts whose cells are lists of messages."""
    _guard: int | None = None
    """Where a CSV written by this program says that formulas were guarded."""
    has_python_lists: bool = False
    """Whether the first messages are written as Python writes lists, not as JSON."""

    def read(self, row: Row) -> Preference | str:
        """Return the preference of a row, or the id of the fault that keeps it from being one."""
        if row.fault:
            return "broken-rows"
        cells = {part: row.cells[index] for part, index in self._positions.items()}
        if self._guard is not None and row.cells[self._guard] == "yes":
            cells = {part: _unguarded(cell) for part, cell in cells.items()}
        try:
            if self.name == TEXT:
                return _read_texts(cells)
            if self.name == DIALOGUE:
                preference = _read_dialogue(cells)
            else:
                preference = _read_messages(cells, self._lists)
            return _with_system(preference, _text(cells.get("system")))
        except _FaultyError as exc:
            return str(exc)


def choose_shape(mapping: ColumnMapping, columns: Sequence[str], head: Sequence[Row]) -> Shape:
    """Tell the shape of a file from its columns and first rows; an empty name if none fits."""
    positions = {part: columns.index(column) for part, column in mapping.parts()}
    lists = frozenset(
        part
        for part in ("prompt", "chosen", "rejected")
        if part in positions and _most(head, positions[part], _is_message_list)
    )
    name = TEXT if mapping.prompt else ""
    if lists:
        name = MESSAGES
    else:
        part, test = ("prompt", _is_open_dialogue) if mapping.prompt else ("chosen", _is_dialogue)
        name = DIALOGUE if _most(head, positions[part], test) else name
    guard = columns.index(GUARD_COLUMN) if GUARD_COLUMN in columns else None
    cells = [row.cells[positions[part]] for row in head[:HEAD_ROWS] for part in sorted(lists)]
    return Shape(name, positions, lists, guard, any(map(_is_python_list, cells)))


def _most(head: Sequence[Row], position: int, test: _Test) -> bool:
    cells = [row.cells[position] for row in head[:HEAD_ROWS]]
    filled = [cell for cell in cells if cell not in (None, "")]
    return bool(filled) and sum(map(test, filled)) * 2 > len(filled)


def _is_dialogue(cell: object) -> bool:
    return isinstance(cell, str) and cell.lstrip().startswith("Human:") and "\n\nAssistant:" in cell


def _is_open_dialogue(cell: object) -> bool:
    return _is_dialogue(cell) and str(cell).rstrip().endswith("Assistant:")


def _is_message_list(cell: object) -> bool:
    if isinstance(cell, str) and not cell.lstrip().startswith(("[", "{")):
        return False
    try:
        return bool(_messages(cell))
    except _FaultyError:
        return False


def _unguarded(cell: object) -> object:
    return _GUARDED.sub("", cell) if isinstance(cell, str) else cell


def _is_python_list(cell: object) -> bool:
    if not isinstance(cell, str) or not _is_message_list(cell):
        return False
    try:
        json.loads(cell)
    except (ValueError, RecursionError):
        return True
    return False


def _read_texts(cells: dict[str, object]) -> Preference:
    prompt = _text(cells["prompt"])
    context = _text(cells.get("context"))
    if context.strip():
        prompt = f"{prompt}\n\n{context}"
    system = _text(cells.get("system"))
    earlier = (Message("system", system),) if system.strip() else ()
    return Preference(earlier, prompt, _text(cells["chosen"]), _text(cells["rejected"]))


def _text(cell: object) -> str:
    if isinstance(cell, str):
        return cell
    if cell is None:
        return ""
    raise _FaultyError("no-text")


def _with_system(preference: Preference, system: str) -> Preference:
    has_system = bool(preference.earlier) and preference.earlier[0].role == "system"
    if not system.strip() or has_system:
        return preference
    return preference._replace(earlier=(Message("system", system), *preference.earlier))


def _read_dialogue(cells: dict[str, object]) -> Preference:
    chosen, rejected = _text(cells["chosen"]), _text(cells["rejected"])
    if "prompt" in cells:
        turns = _turns(_text(cells["prompt"]))
        if turns and turns[-1] == Message("assistant", ""):
            turns.pop()
        return _preference(turns, chosen, rejected)
    return _join(_turns(chosen), _turns(rejected))


def _turns(text: str) -> list[Message]:
    """Cut a transcript with “Human:” and “Assistant:” into its turns."""
    parts = _SPEAKER.split(text)
    if len(parts) < 2 or parts[0].strip():
        raise _FaultyError("bad-turns")
    return [
        Message(_SPOKEN[speaker], said.strip())
        for speaker, said in zip(parts[1::2], parts[2::2], strict=True)
    ]


def _read_messages(cells: dict[str, object], lists: frozenset[str]) -> Preference:
    chosen, rejected = (
        _messages(cells[part]) if part in lists else [Message("assistant", _text(cells[part]))]
        for part in ("chosen", "rejected")
    )
    if "prompt" in lists:
        return _join(chosen, rejected, _messages(cells["prompt"]))
    prompt = _text(cells.get("prompt"))
    told = next((turn for turn in reversed(chosen) if turn.role == "user"), None)
    if told is None:
        return _join(chosen, rejected, [Message("user", prompt)])
    if prompt.strip() and prompt.strip() != told.content.strip():
        raise _FaultyError("different-prompts")
    return _join(chosen, rejected)


def _join(
    chosen: list[Message], rejected: list[Message], before: Sequence[Message] = ()
) -> Preference:
    """Join what was said before with two lists of turns, each of which ends with an answer."""
    for turns in (chosen, rejected):
        if not turns or turns[-1].role != "assistant":
            raise _FaultyError("bad-turns")
    told = chosen[:-1]
    if told and told[-1].role != "user":
        raise _FaultyError("bad-turns")
    if told != rejected[:-1]:
        raise _FaultyError("different-prompts")
    # Some files repeat the prompt at the head of either answer, some only its last turn.
    if told[: len(before)] == list(before):
        conversation = told
    elif not told or list(before[-len(told) :]) == told:
        conversation = list(before)
    else:
        raise _FaultyError("different-prompts")
    return _preference(conversation, chosen[-1].content, rejected[-1].content)


def _preference(conversation: list[Message], chosen: str, rejected: str) -> Preference:
    roles = [message.role for message in conversation]
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    in_turn = ["user" if index % 2 == 0 else "assistant" for index in range(len(spoken))]
    if spoken != in_turn or len(spoken) % 2 == 0:
        raise _FaultyError("bad-turns")
    *earlier, last = conversation
    return Preference(tuple(earlier), last.content, chosen, rejected)


def _messages(cell: object) -> list[Message]:
    value = _literal(cell) if isinstance(cell, str) else cell
    values = [value] if isinstance(value, dict) else value
    if not isinstance(values, list):
        raise _FaultyError("no-messages")
    return [_message(entry) for entry in values]


def _literal(text: str) -> object:
    """Read a list that was written into a text, by a JSON writer or by Python's `str`."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    if len(text) > CELL_LITERAL_CHARACTERS:
        raise _FaultyError("no-messages")
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError) as exc:
        raise _FaultyError("no-messages") from exc


def _message(entry: object) -> Message:
    if not isinstance(entry, dict):
        raise _FaultyError("no-messages")
    role, content = entry.get("role", entry.get("from")), entry.get("content", entry.get("value"))
    if isinstance(content, list):
        content = "".join(_part(part) for part in content)
    if not isinstance(role, str) or not isinstance(content, str):
        raise _FaultyError("no-messages")
    if role not in _ROLES:
        raise _FaultyError("bad-turns")
    return Message(cast("Role", _ROLES[role]), content)


def _part(part: object) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise _FaultyError("no-messages")
