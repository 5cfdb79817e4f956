"""Input of a generation: conversations and sampling settings. Floor 1; no torch."""

from __future__ import annotations

from dataclasses import dataclass

from orpo_qlora.data.messages import Message
from orpo_qlora.errors import ConfigError

BASE = "__base__"
"""PEFT's adapter name for “no adapter”."""


@dataclass(frozen=True)
class Conversation:
    """Messages so far, the last one a user's, and the name of the adapter that answers."""

    turns: tuple[Message, ...]
    adapter: str = BASE
    chat_template: str | None = None
    """Text of the chat template; without one the tokenizer's own is used."""
    tools: str = ""
    """JSON list of the tools that the model may call; empty for none."""


@dataclass(frozen=True)
class Sampling:
    """Sampling settings; the same seed gives the same answer on the same machine.

    Raises:
        ConfigError: a value is out of its bounds.
    """

    temperature: float = 0.7
    """0 always takes the most likely token."""
    top_p: float = 0.95
    """Sample from the most likely tokens up to this probability."""
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
