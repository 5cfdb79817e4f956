"""Turns before the responses and the two responses joined to one preference. Floor 1."""

from __future__ import annotations

import re
from collections.abc import Sequence

from orpo_qlora.data.messages import Message, Role
from orpo_qlora.data.shapes.base import Preference, RowFaultError

_SPEAKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
_SPEAKERS: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}


def is_transcript(cell: object) -> bool:
    """Return whether a text is a transcript with “Human:” and “Assistant:”."""
    return isinstance(cell, str) and cell.lstrip().startswith("Human:") and "\n\nAssistant:" in cell


def is_open_transcript(cell: object) -> bool:
    """Return whether a text is a transcript that ends where the assistant's response begins."""
    return is_transcript(cell) and str(cell).rstrip().endswith("Assistant:")


def transcript_turns(text: str) -> list[Message]:
    """Split a transcript with “Human:” and “Assistant:” into turns."""
    parts = _SPEAKER.split(text)
    if len(parts) < 2 or parts[0].strip():
        raise RowFaultError("bad-turns")
    return [
        Message(_SPEAKERS[speaker], content.strip())
        for speaker, content in zip(parts[1::2], parts[2::2], strict=True)
    ]


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
