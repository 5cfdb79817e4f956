"""Messages of conversations and their roles. Floor 1; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation, in a pair or in the chat."""

    role: Role
    content: str
