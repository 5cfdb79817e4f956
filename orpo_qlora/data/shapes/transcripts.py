"""Whole dialogues as text to turns: “Human:” and “Assistant:”, or a chat template. Floor 1."""

from __future__ import annotations

import re
from dataclasses import dataclass

from orpo_qlora.data.messages import Message, Role
from orpo_qlora.data.shapes.base import RowFaultError
from orpo_qlora.data.shapes.cells import ROLES, TOOL_ROLES

_LEAD = re.compile(r"(?:\s|<s>|<bos>|<\|begin_of_text\|>|<\|endoftext\|>)*")
"""What templates put before the first turn."""
_ROLES: dict[str, Role] = {**ROLES, "": "user", "/": "assistant"}
"""Roles by their names, and by what stands before INST."""
_SYSTEM, _END_OF_SYSTEM = "<<SYS>>", "<</SYS>>"


@dataclass(frozen=True)
class Markup:
    """How a transcript marks its turns."""

    name: str
    opening: re.Pattern[str]
    """Opens a turn; its group is the role."""
    endings: tuple[str, ...] = ()
    """Tokens that close a turn."""


MARKUPS = (
    Markup("Human and Assistant", re.compile(r"(?:\A|\n\n)(Human|Assistant):")),
    Markup(
        "ChatML",
        re.compile(r"<\|im_start\|>[^\S\n]*(\w+)[^\S\n]*(?:\n|\Z)"),
        ("<|im_end|>", "<|endoftext|>", "</s>"),
    ),
    Markup(
        "Llama 3",
        re.compile(r"<\|start_header_id\|>\s*(\w+)\s*<\|end_header_id\|>"),
        ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"),
    ),
    Markup("Gemma", re.compile(r"<start_of_turn>[^\S\n]*(\w+)[^\S\n]*(?:\n|\Z)"),
           ("<end_of_turn>", "<eos>")),
    Markup(
        "Zephyr",
        re.compile(r"<\|(system|user|assistant|tool)\|>"),
        ("</s>", "<|end|>", "<|endoftext|>"),
    ),
    Markup("Llama 2", re.compile(r"\[(/?)INST\]"), ("</s>", "<s>")),
)  # fmt: skip


def markup_of(cell: object) -> Markup | None:
    """Return the markup of a text that begins with a turn, else None."""
    if not isinstance(cell, str):
        return None
    text = _without_lead(cell)
    return next((markup for markup in MARKUPS if markup.opening.match(text)), None)


def is_transcript(cell: object) -> bool:
    """Return whether a text is a transcript that begins with a turn and has an assistant's."""
    markup = markup_of(cell)
    if markup is None:
        return False
    roles = [name.casefold() for name in markup.opening.findall(_without_lead(str(cell)))]
    return _ROLES.get(roles[0]) != "assistant" and "assistant" in map(_ROLES.get, roles)


def is_open_transcript(cell: object) -> bool:
    """Return whether a text is an HH transcript that ends where the response begins."""
    return is_transcript(cell) and str(cell).rstrip().endswith("Assistant:")


def transcript_turns(text: str) -> list[Message]:
    """Split a transcript into turns, without the tokens of its template.

    Raises:
        RowFaultError: it does not begin with a turn, or has an unknown role or tool calls.
    """
    markup = markup_of(text)
    if markup is None:
        raise RowFaultError("bad-turns")
    parts = markup.opening.split(_without_lead(text))
    turns: list[Message] = []
    for name, content in zip(parts[1::2], parts[2::2], strict=True):
        turns += _turns(_role_of(name), _without_endings(content, markup.endings))
    return turns


def _role_of(name: str) -> Role:
    if name.casefold() in TOOL_ROLES:
        raise RowFaultError("tool-calls", f"role “{name}”")
    if name.casefold() not in _ROLES:
        raise RowFaultError("unknown-role", f"role “{name}”")
    return _ROLES[name.casefold()]


def _turns(role: Role, content: str) -> list[Message]:
    """Return the turns of one marked turn: Llama 2 writes the system message into the user's."""
    if role == "system" and not content:
        return []  # some templates write an empty one
    if role == "user" and content.startswith(_SYSTEM) and _END_OF_SYSTEM in content:
        system, _, content = content.removeprefix(_SYSTEM).partition(_END_OF_SYSTEM)
        return [*_turns("system", system.strip()), Message("user", content.strip())]
    return [Message(role, content)]


def _without_lead(text: str) -> str:
    found = _LEAD.match(text)
    return text[found.end() :] if found else text


def _without_endings(content: str, endings: tuple[str, ...]) -> str:
    content = content.strip()
    while found := next((ending for ending in endings if content.endswith(ending)), ""):
        content = content.removesuffix(found).rstrip()
    return content
