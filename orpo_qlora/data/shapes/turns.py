"""Turns before the responses and the two responses joined to one preference. Floor 1."""

from __future__ import annotations

from collections.abc import Sequence

from orpo_qlora.data.messages import Message, Role
from orpo_qlora.data.shapes.base import Preference, RowFaultError


def without_empty_end(turns: Sequence[Message], role: Role) -> list[Message]:
    """Return turns without a last empty turn of this role, which some exports append."""
    ends_empty = bool(turns) and turns[-1].role == role and not turns[-1].content.strip()
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
    if repeated and repeated[-1].role != "user":
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
    return preference_of(conversation, chosen[-1].content, rejected[-1].content)


def preference_of(conversation: Sequence[Message], chosen: str, rejected: str) -> Preference:
    """Return the preference of a conversation that ends with the user's turn.

    Raises:
        RowFaultError: user and assistant do not alternate.
    """
    roles = [message.role for message in conversation]
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    alternating = ["user" if index % 2 == 0 else "assistant" for index in range(len(spoken))]
    if spoken != alternating or len(spoken) % 2 == 0:
        raise RowFaultError("bad-turns")
    *earlier, last = conversation
    return Preference(tuple(earlier), last.content, chosen, rejected)


def with_system(preference: Preference, system: str) -> Preference:
    """Return a preference with a system message in front, unless it has one."""
    has_system = bool(preference.earlier) and preference.earlier[0].role == "system"
    if not system.strip() or has_system:
        return preference
    return preference._replace(earlier=(Message("system", system), *preference.earlier))
