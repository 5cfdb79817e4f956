"""One turn of a conversation. Floor 1; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """What one side said."""

    role: Role
    content: str
