"""A request of the OpenAI API: which parameters have an effect. Floor 5; no torch.

Parameters without an effect here are accepted at the value that switches them off, because clients
send them so. Any other value is refused: its answer would not be what was asked for.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from orpo_qlora.chat.client import ChatSettings
from orpo_qlora.data.messages import Message
from orpo_qlora.errors import InputError

SEEDS = 2**63
"""A generator takes as many seeds; others are reduced to these."""
MOST_STOPS = 4
OFF: Mapping[str, tuple[object, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "top_k": (0, -1),
    "min_p": (0,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "service_tier": ("auto", "default"),
    "store": (False,),
}
"""Parameters without an effect here, with the values that ask for none."""
IGNORED = {"metadata", "parallel_tool_calls", "prompt_cache_key", "safety_identifier", "user"}
"""Parameters that change no answer, whatever their value."""
MESSAGES = (
    "a list of at least one object with role (system, developer, user or assistant) and content, "
    "which is a text or a list of parts like {“type”: “text”, “text”: …}"
)
ACCEPTED = {
    "model": "a text",
    "messages": MESSAGES,
    "temperature": "a number from 0 to 2",
    "top_p": "a number above 0 and at most 1",
    "max_tokens": "a whole number of at least 1",
    "max_completion_tokens": "a whole number of at least 1",
    "seed": "a whole number",
    "stream": "true or false",
    "stream_options": "an object like {“include_usage”: true}",
    "n": "1: for another answer send the request again with another seed",
    "stop": f"a text, or a list of at most {MOST_STOPS} texts",
}


class TextPart(BaseModel):
    """A part of a message; only text is taken."""

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One message of a request."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    def message(self) -> Message:
        """Return it as the chat takes it."""
        parts = self.content
        text = parts if isinstance(parts, str) else "".join(part.text for part in parts)
        role = "system" if self.role == "developer" else self.role
        return Message(role, text)


class StreamOptions(BaseModel):
    """What a stream ends with."""

    include_usage: bool = False
    """Send the numbers of tokens in a last chunk without choices."""


def _as_list(value: object) -> object:
    texts = [value] if isinstance(value, str) else value
    return [text for text in texts if text != ""] if isinstance(texts, list) else texts


class Completion(BaseModel):
    """A request for an answer; null is the default, an unknown parameter is refused."""

    model_config = ConfigDict(extra="forbid")

    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    temperature: float = Field(0.7, ge=0, le=2)
    top_p: float = Field(0.95, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    seed: int = Field(default_factory=lambda: secrets.randbelow(SEEDS))
    """Random unless given: the same request then gets another answer."""
    stop: Annotated[list[str], BeforeValidator(_as_list)] = Field([], max_length=MOST_STOPS)
    """Texts before which the answer ends."""
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Literal[1] = 1

    @model_validator(mode="before")
    @classmethod
    def _without_effect(cls, values: object) -> object:
        """Drop nulls, and what is switched off."""
        if not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if not _is_off(name, value)}

    @property
    def has_usage(self) -> bool:
        """Whether a stream sends the numbers of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def settings(self) -> ChatSettings:
        """Sampling of the answer."""
        longest = self.max_completion_tokens or self.max_tokens or ChatSettings().max_tokens
        return ChatSettings("", self.temperature, self.top_p, longest, self.seed % SEEDS)


def _is_off(name: str, value: object) -> bool:
    return value is None or name in IGNORED or value in OFF.get(name, ())


def read_request(body: bytes) -> Completion:
    """Return the request of a body.

    Raises:
        InputError: says what the parameter `where` may be.
    """
    try:
        return Completion.model_validate_json(body)
    except ValidationError as exc:
        # Of a message's content there is an error for each form that it may have: all name it.
        raise _error_of(exc.errors(include_url=False)[0]) from exc


def _error_of(wrong: ErrorDetails) -> InputError:
    place = wrong["loc"]
    if not place:
        return InputError(
            "The body is not a JSON object.", hint="Send an object with model and messages."
        )
    name = str(place[0])
    if wrong["type"] == "extra_forbidden":
        off = " or ".join(map(json.dumps, OFF.get(name, ())))
        text = f"has no effect here, so only {off} is accepted" if off else "is not supported"
        return InputError(f"“{name}” {text}.", hint="Leave it out.", where=name)
    is_message = name == "messages" and len(place) > 1
    part = f"messages[{place[1]}]" if is_message else name
    what = "is missing" if wrong["type"] == "missing" and not is_message else "cannot be used"
    hint = f"“{name}” must be {ACCEPTED[name]}."
    return InputError(f"“{part}” {what}.", hint=hint, where=name)
