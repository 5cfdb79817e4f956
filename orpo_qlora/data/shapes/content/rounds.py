"""Rounds as objects, such as `[{"human": …, "assistant": …}]`, to messages. Floor 1; no torch."""

from __future__ import annotations

from orpo_qlora.data.column_names import plain_name

_USER = {"human", "user", "input", "prompt", "question", "query", "instruction", "q"}
_ASSISTANT = {
    "assistant", "gpt", "bot", "chatbot", "model", "ai", "output", "response", "answer",
    "completion", "reply", "a",
}  # fmt: skip
_SYSTEM = {"system"}
_ABOUT = {"id", "turn", "round", "index", "idx", "turn_id", "round_id"}
_ROLES = (("system", _SYSTEM), ("user", _USER), ("assistant", _ASSISTANT))
ROUND_KEYS = _USER | _ASSISTANT | _SYSTEM | _ABOUT
"""Keys of a round; an object with any other key is none."""


def messages_of_rounds(value: object) -> list[dict[str, object]] | None:
    """Return rounds as messages with a role, None for anything else.

    The last round may lack its response, and a round may hold one of its two messages alone.
    """
    if not isinstance(value, list) or not value:
        return None
    messages: list[dict[str, object]] = []
    for one in value:
        found = _messages(one)
        if found is None:
            return None
        messages += found
    return messages if messages and messages[0]["role"] != "assistant" else None


def _messages(one: object) -> list[dict[str, object]] | None:
    """Return the messages of one round in the order of the roles, None if it is none."""
    if not isinstance(one, dict):
        return None
    # Parquet gives all rounds the same keys, and None to those without a value.
    names = {plain_name(str(key)): text for key, text in one.items() if text is not None}
    if not names.keys() <= ROUND_KEYS or not names.keys() - _ABOUT:
        return None
    messages: list[dict[str, object]] = []
    for role, keys in _ROLES:
        texts = [names[key] for key in names if key in keys]
        if len(texts) > 1 and names.keys() & keys == {"instruction", "input"}:
            texts = ["\n\n".join(str(text) for text in texts if text)]
        if len(texts) > 1 or not all(isinstance(text, str) for text in texts):
            return None
        messages += [{"role": role, "content": text} for text in texts]
    return messages
