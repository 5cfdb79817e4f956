"""Settings of a judge and the estimate of its price. Floor 5; no torch.

The key is read from the environment alone, by the program that asks; it is in no request file.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

from orpo_qlora.errors import InputError

KEY_VARIABLE = "ORPO_QLORA_JUDGE_KEY"
ADDRESS_VARIABLE = "ORPO_QLORA_JUDGE_URL"
"""The one address to which a page sends the key."""
CHARACTERS_PER_TOKEN = 4
REPLY_TOKENS = 300
"""Tokens of a reply, for the estimate."""
MILLION = 1_000_000

Question = Literal["preference", "grade", "concise"]
QUESTIONS: tuple[Question, ...] = ("preference", "grade", "concise")


class JudgeSettings(BaseModel):
    """Which model judges, through which endpoint, and within which budget."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: str
    """Up to and with the version, such as `http://127.0.0.1:8000/v1`."""
    model: str
    questions: tuple[Question, ...] = ("preference",)
    price_in: Annotated[float, Field(ge=0)] = 0.0
    """Price of a million tokens that are read."""
    price_out: Annotated[float, Field(ge=0)] = 0.0
    """Price of a million tokens of replies."""
    budget: Annotated[float, Field(ge=0)] = 0.0
    """In the currency of the prices; 0 sets no limit."""
    parallel: Annotated[int, Field(ge=1, le=32)] = 4
    """Questions asked at once."""
    timeout_seconds: Annotated[float, Field(gt=0)] = 120.0
    retry_seconds: Annotated[float, Field(ge=0)] = 1.0
    """Wait before the first repetition; doubled each time."""

    def price(self, tokens_in: float, tokens_out: float) -> float:
        """Return the price of so many tokens."""
        return (tokens_in * self.price_in + tokens_out * self.price_out) / MILLION


@dataclass(frozen=True)
class Estimate:
    """What judging takes, predicted from the lengths of the texts."""

    calls: int
    tokens_in: int
    tokens_out: int
    price: float

    @property
    def sentence(self) -> str:
        """The estimate in words."""
        price = f", price about {self.price:.2f}" if self.price else ""
        return (
            f"{self.calls:,} questions to the judge, about {self.tokens_in:,} tokens read and "
            f"{self.tokens_out:,} written{price}."
        )


def estimate(lengths: Iterable[int], settings: JudgeSettings) -> Estimate:
    """Return the estimate for questions of so many characters."""
    known = list(lengths)
    tokens_in = sum(known) // CHARACTERS_PER_TOKEN
    tokens_out = REPLY_TOKENS * len(known)
    return Estimate(len(known), tokens_in, tokens_out, settings.price(tokens_in, tokens_out))


def check_settings(settings: JudgeSettings) -> None:
    """Refuse an endpoint that cannot be asked safely.

    Raises:
        InputError: the address is no web address, holds a password, or would receive the key
            unencrypted on a network.
    """
    address = urlsplit(settings.base_url)
    if address.scheme not in {"http", "https"} or not address.hostname:
        raise InputError(
            f"“{settings.base_url}” is not the address of an endpoint.",
            hint="Give it with its version, http://127.0.0.1:8000/v1 for instance.",
        )
    if address.username or address.password or address.query:
        raise InputError(
            "The address of the judge holds a password or parameters, which would be stored.",
            hint=f"Give the address alone, and the key as {KEY_VARIABLE} in the environment.",
        )
    if key_of_judge() and address.scheme == "http" and not _is_loopback(address.hostname):
        raise InputError(
            f"The key of the judge would be sent unencrypted to {address.hostname}.",
            hint=f"Use https, or unset {KEY_VARIABLE}.",
        )


def refuse_other_address(settings: JudgeSettings) -> None:
    """Refuse an address typed on the page that would receive the key; a page may have many users.

    Raises:
        InputError: there is a key, and the address is not the one in the environment.
    """
    allowed = os.environ.get(ADDRESS_VARIABLE, "").strip()
    if key_of_judge() and settings.base_url.rstrip("/") != allowed.rstrip("/"):
        raise InputError(
            f"The page sends the key of the judge only to the address in {ADDRESS_VARIABLE}.",
            hint=f"Start the page with {ADDRESS_VARIABLE} set to this address, or without "
            f"{KEY_VARIABLE}.",
        )


def key_of_judge() -> str:
    """Return the key in the environment; empty without one."""
    return os.environ.get(KEY_VARIABLE, "").strip()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
