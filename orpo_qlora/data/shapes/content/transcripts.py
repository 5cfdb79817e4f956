"""Whole dialogues as text to turns: “Human:” and “Assistant:”, or a chat template. Floor 1."""

from __future__ import annotations

import re
from dataclasses import dataclass

from orpo_qlora.data.messages import Message, Role
from orpo_qlora.data.shapes.base import RowFaultError
from orpo_qlora.data.shapes.content.cells import ROLES, TOOL_ROLES

_LEAD = re.compile(
    r"(?:\s|<s>|<bos>|<\|begin_of_text\|>|<\|endoftext\|>|<｜begin▁of▁sentence｜>|<BOS_TOKEN>)*"
)
"""What templates put before the first turn."""
_ROLES: dict[str, Role] = {
    **ROLES, "": "user", "/": "assistant", "response": "assistant",
    "用户": "user", "助手": "assistant", "系统": "system",
}  # fmt: skip
"""Roles by their names, and by what stands before INST."""
_SYSTEM, _END_OF_SYSTEM = "<<SYS>>", "<</SYS>>"
# The fixed sentence of Alpaca's template; a chat template takes its place.
_ALPACA = re.compile(r"Below is an instruction\b[^\n]*\n+(?=### )")
_ALPACA_INPUT = re.compile(r"\n+### Input:\n?")
_LABELS = (
    r"(human|user|system|assistant|ai|bot|chatbot|model|gpt|chatgpt|用户|助手|系统)[^\S\n]*[:：]"
)


@dataclass(frozen=True)
class Markup:
    """How a transcript marks its turns."""

    name: str
    opening: re.Pattern[str]
    """Opens a turn; its group is the role."""
    endings: tuple[str, ...] = ()
    """Tokens that close a turn."""
    preamble: re.Pattern[str] | None = None
    """What may be in front of the first turn: the system message."""


MARKUPS = (
    Markup("Human and Assistant", re.compile(r"(?:\A|\n\n)(Human|Assistant):")),
    Markup(
        "ChatML",
        re.compile(r"<\|im_start\|>[^\S\n]*(\w+)[^\S\n]*(?:\n|<\|im_sep\|>|\Z)"),
        ("<|im_end|>", "<|endoftext|>", "</s>"),
    ),
    Markup(
        "Llama 3",
        re.compile(r"<\|start_header_id\|>\s*(\w+)\s*<\|end_header_id\|>"),
        ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"),
    ),
    Markup("Llama 4", re.compile(r"<\|header_start\|>\s*(\w+)\s*<\|header_end\|>"),
           ("<|eot|>", "<|eom|>", "<|end_of_text|>")),
    Markup("Gemma", re.compile(r"<start_of_turn>[^\S\n]*(\w+)[^\S\n]*(?:\n|\Z)"),
           ("<end_of_turn>", "<eos>")),
    Markup(
        "Zephyr",
        re.compile(r"<\|(system|user|assistant|tool|prompter|human)\|>"),
        ("</s>", "<|end|>", "<|endoftext|>"),
    ),
    Markup("DeepSeek", re.compile(r"<｜(User|Assistant)｜>"), ("<｜end▁of▁sentence｜>",),
           re.compile(r"[^<]*(?=<｜User｜>)")),
    Markup("Llama 2 or Mistral", re.compile(r"\[(/?)INST\]"), ("</s>", "<s>")),
    Markup(
        "Alpaca",
        re.compile(r"(?:\A|\n+)###[^\S\n]*(Instruction|Response|Human|User|Assistant|System):"),
        ("</s>", "<|endoftext|>"),
    ),
    Markup("Vicuna", re.compile(r"(?:\A|\s+|</s>)(USER|ASSISTANT):"), ("</s>",),
           re.compile(r"A chat between [^\n]*?(?=\s+USER:)")),
    Markup("lines with roles", re.compile(rf"(?:\A|\n+){_LABELS}", re.IGNORECASE)),
)  # fmt: skip


def markup_of(cell: object) -> Markup | None:
    """Return the markup of a text that begins with a turn, else None.

    One whose turns have a response goes before others that open the text too.
    """
    if not isinstance(cell, str):
        return None
    fitting = [
        markup for markup in MARKUPS if markup.opening.match(_without_lead(cell, markup.preamble))
    ]
    with_response = (markup for markup in fitting if _has_response(cell, markup))
    return next(with_response, fitting[0] if fitting else None)


def _has_response(text: str, markup: Markup) -> bool:
    names = markup.opening.findall(text)
    return any(_ROLES.get(name.casefold()) == "assistant" for name in names)


def is_transcript(cell: object) -> bool:
    """Return whether a text is a transcript that begins with a turn and has an assistant's."""
    markup = markup_of(cell)
    if markup is None:
        return False
    text = _without_lead(str(cell), markup.preamble)
    roles = [name.casefold() for name in markup.opening.findall(text)]
    return _ROLES.get(roles[0]) != "assistant" and "assistant" in map(_ROLES.get, roles)


def is_open_transcript(cell: object) -> bool:
    """Return whether a text is a transcript that ends where the response begins."""
    if not is_transcript(cell):
        return False
    try:
        return transcript_turns(str(cell))[-1] == Message("assistant", "")
    except RowFaultError:
        return False


def transcript_turns(text: str) -> list[Message]:
    """Split a transcript into turns, without the tokens of its template.

    Raises:
        RowFaultError: it does not begin with a turn, or has an unknown role or tool calls.
    """
    markup = markup_of(text)
    if markup is None:
        raise RowFaultError("bad-turns")
    rest = _without_lead(text, markup.preamble)
    parts = markup.opening.split(rest)
    start = _LEAD.sub("", text, count=1)
    turns = _turns("system", start.removesuffix(rest).strip()) if markup.preamble else []
    for name, content in zip(parts[1::2], parts[2::2], strict=True):
        content = without_endings(content, markup)
        if markup.name == "Alpaca":
            content = _ALPACA_INPUT.sub("\n\n", content)
        turns += _turns(_role_of(name), content)
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


def _without_lead(text: str, preamble: re.Pattern[str] | None = None) -> str:
    found = _LEAD.match(text)
    text = text[found.end() :] if found else text
    for start in (_ALPACA, preamble):
        before = start.match(text) if start else None
        text = text[before.end() :] if before else text
    return text.lstrip() if preamble else text


def without_endings(text: str, markup: Markup) -> str:
    """Return the text of one turn without outer white space and the tokens that close it."""
    text = text.strip()
    while found := next((ending for ending in markup.endings if text.endswith(ending)), ""):
        text = text.removesuffix(found).rstrip()
    return text
