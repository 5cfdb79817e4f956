"""What a generation is asked for: conversations and how to draw tokens. Floor 1; no torch."""

from __future__ import annotations

from dataclasses import dataclass

from orpo_qlora.data.messages import Message
from orpo_qlora.errors import ConfigError

BASE = "__base__"
"""The adapter name that means “no adapter” (PEFT's own word)."""


@dataclass(frozen=True)
class Conversation:
    """The turns so far, the last one a user's, and the adapter that is to answer."""

    turns: tuple[Message, ...]
    adapter: str = BASE


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; the same seed gives the same answer on the same machine.

    Raises:
        ConfigError: a value is out of its bounds.
    """

    temperature: float = 0.7
    """0 takes the likeliest token every time."""
    top_p: float = 0.95
    """Share of the probability, likeliest tokens first, that is drawn from."""
    max_tokens: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        wrong = [
            text
            for is_wrong, text in (
                (not 0 <= self.temperature <= 10, "temperature is between 0 and 10"),
                (not 0 < self.top_p <= 1, "top-p is above 0 and at most 1"),
                (self.max_tokens < 1, "the longest answer has at least 1 token"),
                (not 0 <= self.seed < 2**63, "the seed is a whole number from 0"),
            )
            if is_wrong
        ]
        if wrong:
            raise ConfigError(
                f"These chat settings cannot be used: {'; '.join(wrong)}.",
                hint="Correct them and send the message again.",
            )
