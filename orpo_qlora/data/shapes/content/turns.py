"""Turns before the responses and the two responses joined to one preference. Floor 1."""

from __future__ import annotations

from collections.abc import Sequence

from orpo_qlora.data.messages import NO_TOOLS, Message, Role, ToolUse
from orpo_qlora.data.shapes.base import Preference, RowFaultError


def without_empty_end(turns: Sequence[Message], role: Role) -> list[Message]:
    """Return turns without a last empty turn of this role, which some exports append."""
    ends_empty = bool(turns) and turns[-1].role == role and not turns[-1].text.strip()
    return list(turns[:-1] if ends_empty else turns)


def join(
    chosen: Sequence[Message], rejected: Sequence[Message], before: Sequence[Message] = ()
) -> Preference:
    """Join the turns before with two lists of turns, each of which ends with a response.

    Raises:
        RowFaultError: they do not belong together.
    """
    chosen, rejected = (without_empty_end(turns, "user") for turns in (chosen, rejected))
    if len(rejected) == 1 < len(chosen):
        rejected = [*chosen[:-1], *rejected]
    for turns in (chosen, rejected):
        if not turns or turns[-1].role != "assistant":
            raise RowFaultError("bad-turns")
    repeated = list(chosen[:-1])
    if repeated and repeated[-1].role not in {"user", "tool"}:
        raise RowFaultError("bad-turns")
    if repeated != list(rejected[:-1]):
        raise RowFaultError("different-prompts")
    before = without_empty_end(before, "assistant")
    # Some files repeat the prompt before each response, some only its last turn.
    if repeated[: len(before)] == before:
        conversation = repeated
    elif not repeated or before[-len(repeated) :] == repeated:
        conversation = before
    else:
        raise RowFaultError("different-prompts")
    use = ToolUse(chosen_calls=chosen[-1].tool_calls, rejected_calls=rejected[-1].tool_calls)
    preference = preference_of(conversation, chosen[-1].content, rejected[-1].content)
    steps = preference.tool_use.steps
    return (
        preference
        if use == NO_TOOLS
        else preference._replace(tool_use=ToolUse("", use.chosen_calls, use.rejected_calls, steps))
    )


def preference_of(conversation: Sequence[Message], chosen: str, rejected: str) -> Preference:
    """Return the preference of a conversation that ends with the user's turn, or a tool's result.

    Raises:
        RowFaultError: user and assistant do not alternate.
    """
    roles = [message.role for message in _without_calls(conversation)]
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    alternating = ["user" if index % 2 == 0 else "assistant" for index in range(len(spoken))]
    if spoken != alternating or len(spoken) % 2 == 0:
        raise RowFaultError("bad-turns")
    last = max(place for place, turn in enumerate(conversation) if turn.role == "user")
    steps = tuple(conversation[last + 1 :])
    return Preference(
        tuple(conversation[:last]),
        conversation[last].content,
        chosen,
        rejected,
        ToolUse(steps=steps) if steps else NO_TOOLS,
    )


def _without_calls(conversation: Sequence[Message]) -> list[Message]:
    """Return the turns without the tools' results and the calls that they answer."""
    turns: list[Message] = []
    for place, message in enumerate(conversation):
        following = conversation[place + 1 : place + 2]
        is_call = bool(message.tool_calls) and bool(following) and following[0].role == "tool"
        is_result = message.role == "tool" and place > 0
        if not is_call and not is_result:
            turns.append(message)
    return turns


def with_system(preference: Preference, system: str) -> Preference:
    """Return a preference with a system message in front, unless it has one."""
    has_system = bool(preference.earlier) and preference.earlier[0].role == "system"
    if not system.strip() or has_system:
        return preference
    return preference._replace(earlier=(Message("system", system), *preference.earlier))
