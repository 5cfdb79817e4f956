"""What a chat template puts around messages, and where an answer ends. Floor 1."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from orpo_qlora.data.messages import Message
from orpo_qlora.errors import InputError, NoChatTemplate
from orpo_qlora.models.templates import chat_templates, tokenizer_files
from orpo_qlora.models.templates.chat_templates import (
    IM_END,
    PROPOSED,
    UNCHANGED,
    TemplateChanges,
    TemplateInUse,
    Words,
    built_in,
)
from orpo_qlora.setting import CHAT_TEMPLATES, is_template_text

_MARK = "ANSWERGOESHERE"
_SYSTEM = "SYSTEMGOESHERE"
_FIRST, _SECOND = "FIRSTGOESHERE", "SECONDGOESHERE"
REFUSES = "The model's chat template refuses"
JOINT = "\n\n"
"""Between texts of one role that are joined, and after a system message in a user turn."""

_limits: dict[str, TemplateLimits] = {}
"""What each template refuses, by its text."""
_tools: dict[str, bool] = {}
"""Whether each template knows tools, by its text."""


@dataclass(frozen=True)
class AnswerEnd:
    """What the template puts after an answer."""

    tail: str
    """Text from the answer's last character to the end of the conversation; empty if it has no
    end-of-turn token."""
    end_ids: tuple[int, ...]
    """Ids up to and including the end-of-turn token."""
    rest: int
    """Number of ids of the tail after the end-of-turn token, usually one newline."""

    @property
    def token(self) -> int:
        """Id of the end-of-turn token; of end-of-sequence if the template has none."""
        return self.end_ids[-1]


@dataclass(frozen=True)
class TemplateLimits:
    """Which conversations a template refuses, and how they are changed to be rendered."""

    takes_system: bool = True
    takes_repeats: bool = True
    """Whether consecutive turns may have one role."""

    def fit(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Return the conversation as the template takes it."""
        if not self.takes_system:
            messages = _system_in_user_turn(messages)
        return messages if self.takes_repeats else _joined(messages)

    def changes(self, messages: Sequence[Message]) -> TemplateChanges:
        """Return what `fit` changes in one conversation."""
        is_moved = not self.takes_system and any(m.role == "system" for m in messages)
        turns = _system_in_user_turn(messages) if is_moved else messages
        is_joined = not self.takes_repeats and any(
            a.role == b.role and not _has_tools(a, b) for a, b in pairwise(turns)
        )
        return TemplateChanges(system_moved=int(is_moved), turns_joined=int(is_joined))


def use_template(tokenizer: PreTrainedTokenizerBase, chat_template: str, name: str) -> None:
    """Give a tokenizer the chat template that a setting asks for; its vocabulary stays.

    Args:
        tokenizer: with or without a template of its own.
        chat_template: value of the setting: a name, a path or a template's text.
        name: of the model, for an error.

    Raises:
        ConfigError: a template file cannot be used.
        NoChatTemplate: nothing in the vocabulary can end a turn.
    """
    own = tokenizer.chat_template
    if isinstance(own, dict):  # one for tools, one for documents
        own = own.get("default") or next(iter(own.values()), None)
    tokenizer.chat_template = own
    tokenizer.chat_template = template_text(tokenizer, chat_template)
    if tokenizer.eos_token_id is None and not _has_end(tokenizer):
        raise NoChatTemplate(
            f"The tokenizer of {name} has no end-of-sequence token, so no turn can end.",
            hint="Choose another model, or set its eos_token in tokenizer_config.json.",
        )


def _has_end(tokenizer: PreTrainedTokenizerBase) -> bool:
    try:
        return _end_in(tokenizer, None) is not None
    except InputError:  # a built-in template without the end-of-sequence token it needs
        return False


def template_text(tokenizer: PreTrainedTokenizerBase, chat_template: str) -> str:
    """Return the text of a template for a tokenizer that has its own one, if there is one."""
    if is_template_text(chat_template):
        return chat_template
    if chat_template not in CHAT_TEMPLATES:
        return chat_templates.text_of(chat_template)
    if chat_template == "auto" and tokenizer.chat_template is not None:
        return str(tokenizer.chat_template)
    name = PROPOSED if chat_template == "auto" else chat_template
    return built_in(name, _words(tokenizer))


def _words(tokenizer: PreTrainedTokenizerBase) -> Words:
    ids = tokenizer("a")["input_ids"]
    adds_bos = tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    return Words(adds_bos, IM_END in added)


def template_in_use(
    folder: Path, tokenizer: PreTrainedTokenizerBase, chat_template: str
) -> TemplateInUse:
    """Return which template the tokenizer of a folder got, with its end-of-turn token."""
    found = tokenizer_files.template_in_use(folder, chat_template)
    token = tokenizer.convert_ids_to_tokens(end_of_answer(tokenizer).token)
    return found.model_copy(update={"end": token})


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    is_open: bool,
    template: str | None = None,
    tools: str = "",
) -> str:
    """Return a conversation as text, changed as far as the template demands it.

    Args:
        tokenizer: with a chat template.
        messages: the conversation.
        is_open: append the generation prompt, after which an answer begins.
        template: used in place of the tokenizer's own.
        tools: JSON list of the tools that the model may call; empty for none.

    Raises:
        InputError: the template refuses the conversation.
    """
    fitted = limits_of(tokenizer, template).fit(messages)
    try:
        return _rendered(tokenizer, fitted, template, is_open=is_open, tools=tools)
    except (TemplateError, TypeError) as exc:  # TypeError: something that it writes is missing
        if isinstance(exc, TypeError) and not tools:
            raise
        about_tools = "Give every tool a name, a description and parameters. " if tools else ""
        raise InputError(
            f"{REFUSES} the conversation: {exc}.",
            hint=f"{about_tools}Begin it with a user message, alternate user and assistant "
            "messages, or choose another chat template.",
        ) from exc


def _rendered(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    template: str | None,
    *,
    is_open: bool,
    tools: str = "",
) -> str:
    return tokenizer.apply_chat_template(
        [message.record() for message in messages],
        tools=json.loads(tools) if tools else None,
        chat_template=template,
        tokenize=False,
        add_generation_prompt=is_open,
        enable_thinking=False,
    )


def limits_of(tokenizer: PreTrainedTokenizerBase, template: str | None = None) -> TemplateLimits:
    """Return what a template refuses, found by trying it."""
    text = template or str(tokenizer.chat_template)
    if text not in _limits:
        _limits[text] = _tried(tokenizer, template)
    return _limits[text]


def _tried(tokenizer: PreTrainedTokenizerBase, template: str | None) -> TemplateLimits:
    def takes(*messages: Message) -> bool:
        try:
            text = _rendered(tokenizer, messages, template, is_open=True)
        except TemplateError:
            return False
        return all(message.content in text for message in messages)

    question = Message("user", _FIRST)
    if not takes(question):
        return TemplateLimits()
    repeated = [
        *(question, Message("assistant", _MARK), Message("assistant", _SYSTEM)),
        *(Message("user", _SECOND), Message("user", _FIRST)),
    ]
    return TemplateLimits(takes(Message("system", _SYSTEM), question), takes(*repeated))


def changes_of(
    tokenizer: PreTrainedTokenizerBase, conversations: Iterable[Sequence[Message]]
) -> TemplateChanges:
    """Return in how many conversations `render` changes the turns."""
    limits, changes = limits_of(tokenizer), UNCHANGED
    if limits == TemplateLimits():
        return changes
    for messages in conversations:
        changes += limits.changes(messages)
    return changes


def _system_in_user_turn(messages: Sequence[Message]) -> Sequence[Message]:
    """Return the conversation with its system text in front of the first user turn."""
    system = JOINT.join(m.content for m in messages if m.role == "system" and m.content)
    turns = [message for message in messages if message.role != "system"]
    first = next((at for at, turn in enumerate(turns) if turn.role == "user"), None)
    if system and first is not None:
        turns[first] = replace(turns[first], content=f"{system}{JOINT}{turns[first].content}")
    return turns


def _joined(messages: Sequence[Message]) -> Sequence[Message]:
    """Return the conversation with consecutive turns of one role joined by a blank line."""
    turns: list[Message] = []
    for message in messages:
        if turns and turns[-1].role == message.role and not _has_tools(turns[-1], message):
            text = f"{turns[-1].content}{JOINT}{message.content}"
            turns[-1] = replace(message, content=text)
        else:
            turns.append(message)
    return turns


def _has_tools(*messages: Message) -> bool:
    return any(message.tool_calls or message.role == "tool" for message in messages)


def knows_tools(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the chat template writes out tools, calls and results, found by trying it."""
    text = str(tokenizer.chat_template)
    if text not in _tools:
        _tools[text] = _takes_tools(tokenizer)
    return _tools[text]


def _takes_tools(tokenizer: PreTrainedTokenizerBase) -> bool:
    function = {"name": _FIRST, "description": "d", "parameters": {"type": "object"}}
    calls = [{"id": "callcall1", "type": "function",
              "function": {"name": _SECOND, "arguments": {"q": "x"}}}]  # fmt: skip
    messages = [
        Message("user", "hi"),
        Message("assistant", "", json.dumps(calls)),
        Message("tool", _MARK, name=_SECOND, tool_call_id="callcall1"),
    ]
    tools = json.dumps([{"type": "function", "function": function}])
    try:
        text = _rendered(tokenizer, messages, None, is_open=True, tools=tools)
    except (TemplateError, TypeError, KeyError):
        return False
    return all(name in text for name in (_FIRST, _SECOND, _MARK))


def end_of_answer(tokenizer: PreTrainedTokenizerBase, template: str | None = None) -> AnswerEnd:
    """Return how the template ends an answer: the first special token after it, and what follows.

    Raises:
        InputError: the template refuses a plain question and answer.
    """
    found = _end_in(tokenizer, template)
    return found or AnswerEnd("", (tokenizer.eos_token_id,), 0)


def _end_in(tokenizer: PreTrainedTokenizerBase, template: str | None) -> AnswerEnd | None:
    messages = [Message("user", "hi"), Message("assistant", _MARK)]
    tail = render(tokenizer, messages, is_open=False, template=template).rpartition(_MARK)[2]
    ids = tokenizer(tail, add_special_tokens=False)["input_ids"] if tail else []
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    for index, token in enumerate(ids):
        if token in special:
            return AnswerEnd(tail, tuple(ids[: index + 1]), len(ids) - index - 1)
    return None
