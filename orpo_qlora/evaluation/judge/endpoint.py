"""Client of an OpenAI-compatible endpoint, with retries. Floor 5; no torch."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import httpx

from orpo_qlora.errors import InputError, OrpoQloraError
from orpo_qlora.evaluation.judge.questions import Chat
from orpo_qlora.evaluation.judge.settings import KEY_VARIABLE, JudgeSettings, key_of_judge
from orpo_qlora.program import without_secrets

log = logging.getLogger(__name__)

TRIES = 5
MOST_WAIT_SECONDS = 60.0
MOST_REPLY_TOKENS = 1024
BUSY = {408, 409, 425, 429, 500, 502, 503, 504}
"""Statuses after which asking again may help."""
DETAIL_CHARACTERS = 200
KEPT = "Verdicts so far are kept: evaluate again to continue."


@dataclass(frozen=True)
class Reply:
    """Raw reply of a judge and what it cost."""

    text: str
    tokens_in: int
    tokens_out: int


class Endpoint:
    """One judge; may be asked from several threads."""

    def __init__(self, settings: JudgeSettings) -> None:
        self._settings = settings
        self._url = f"{settings.base_url.rstrip('/')}/chat/completions"
        key = key_of_judge()
        # No redirects: another host would receive the key.
        self._client = httpx.Client(
            timeout=settings.timeout_seconds,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            follow_redirects=False,
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def ask(self, chat: Chat) -> Reply:
        """Return the reply to a question; a busy or silent endpoint is asked again.

        Raises:
            InputError: the endpoint refuses the key, the model or the question.
            OrpoQloraError: it cannot be reached, or does not reply with a chat completion.
        """
        problem = ""
        for attempt in range(TRIES):
            wait = self._settings.retry_seconds * 2**attempt
            try:
                response = self._client.post(
                    self._url,
                    json={
                        "model": self._settings.model,
                        "messages": list(chat),
                        "temperature": 0,
                        "max_tokens": MOST_REPLY_TOKENS,
                    },
                )
            except httpx.TimeoutException:
                problem = f"did not reply within {self._settings.timeout_seconds:g} seconds"
            except httpx.HTTPError as exc:
                problem = f"cannot be reached ({type(exc).__name__})"
            else:
                self._refuse_wrong(response)
                reply = _reply_of(response)
                if reply is not None:
                    return reply
                problem = _problem_of(response)
                wait = max(wait, _asked_wait(response))
            log.info("the judge %s; try %d of %d", problem, attempt + 1, TRIES)
            if attempt + 1 < TRIES:
                time.sleep(min(wait, MOST_WAIT_SECONDS))
        raise OrpoQloraError(
            f"The judge at {self._settings.base_url} {problem}, {TRIES} times.", hint=KEPT
        )

    def _refuse_wrong(self, response: httpx.Response) -> None:
        """Raise for a status that asking again does not change."""
        status = response.status_code
        if status < 300 or status in BUSY:
            return
        detail = without_secrets(" ".join(response.text.split()))[:DETAIL_CHARACTERS]
        if status in {401, 403}:
            raise InputError(
                f"The judge at {self._settings.base_url} refuses the key (status {status}).",
                hint=f"Set {KEY_VARIABLE} in the environment of this program. {KEPT}",
            )
        raise InputError(
            f"The judge at {self._settings.base_url} refuses the question (status {status}): "
            f"{detail}",
            hint=f"Check address and model “{self._settings.model}”. {KEPT}",
        )


def _reply_of(response: httpx.Response) -> Reply | None:
    """Return the reply in a response, None if it is no chat completion."""
    if response.status_code >= 300:
        return None
    try:
        content = response.json()
        text = content["choices"][0]["message"]["content"]
        usage = content.get("usage") or {}
        counts = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    return Reply(without_secrets(text), *counts) if isinstance(text, str) else None


def _problem_of(response: httpx.Response) -> str:
    if response.status_code == 429:
        return "asks for fewer questions a minute (status 429)"
    if response.status_code in BUSY:
        return f"is busy or failing (status {response.status_code})"
    return "replies with something that is no chat completion"


def _asked_wait(response: httpx.Response) -> float:
    try:
        return float(response.headers.get("retry-after", 0))
    except ValueError:
        return 0.0
