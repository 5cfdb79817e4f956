"""OpenAI-compatible endpoint for base and tuned: `python -m orpo_qlora.chat.openai_api`. Floor 5.

A thin route over the chat process, which holds the base once and turns the adapter on or off.
transformers' own server (5.23) loads models by name and has no way to switch an adapter, so it
would hold the 4-bit base twice and could not share it with the chat.

Loopback only. A browser page of another site cannot use it: requests with a foreign Origin, or
with a Host that is not this machine's, are refused. `KEY_VARIABLE` keeps out other users of the
machine.
"""

from __future__ import annotations

import hmac
import json
import os
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from orpo_qlora.chat import client
from orpo_qlora.chat.client import Answers
from orpo_qlora.chat.openai_request import Completion, read_request
from orpo_qlora.chat.protocol import Column
from orpo_qlora.errors import InputError, OrpoQloraError, ResourceError
from orpo_qlora.runs import store
from orpo_qlora.runs.store import Run

HOST = "127.0.0.1"
HOSTS = ("127.0.0.1", "localhost", "[::1]")
BASE = "base"
"""Name of the run's base model without the adapter."""
MOST_BODY_BYTES = 8_000_000
KEY_VARIABLE = "ORPO_QLORA_SERVE_KEY"
"""Environment variable with the key that every request must carry; unset, none is needed."""


@dataclass(frozen=True)
class Endpoint:
    """Answers for one run: its base and its adapter."""

    run: Run
    key: str = ""
    """What requests carry as their bearer token; empty for none."""

    def app(self) -> Starlette:
        """Return the application."""
        app = Starlette(
            routes=[
                Route("/v1/models", self.models),
                Route("/v1/chat/completions", self.completions, methods=["POST"]),
            ]
        )
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(HOSTS))
        return app

    async def models(self, request: HttpRequest) -> Response:
        """List the two models."""
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        about = {"object": "model", "created": int(self.run.state.created_at), "owned_by": "local"}
        return JSONResponse(
            {"object": "list", "data": [{"id": name, **about} for name in (BASE, self.run.id)]}
        )

    async def completions(self, request: HttpRequest) -> Response:
        """Answer a conversation, whole or as a stream of events."""
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > MOST_BODY_BYTES:
                return _error(413, "The request is too large.", "invalid_request_error")
        try:
            asked = read_request(bytes(body))
        except InputError as exc:
            return _error(400, str(exc), "invalid_request_error", exc.where or None)
        if asked.model not in (BASE, self.run.id):
            names = f"{BASE} and {self.run.id}"
            return _error(404, f"There is no model {asked.model}; there are {names}.", "not_found")
        answers = self._answers(asked)
        try:
            first = await run_in_threadpool(_next_text, answers)
            if asked.stream:
                events = _events(asked, first, answers)
                return StreamingResponse(events, media_type="text/event-stream")
            return JSONResponse(await run_in_threadpool(_whole, asked, first, answers))
        except OrpoQloraError as exc:
            return _error(_status_of(exc), str(exc), exc.slug)

    def _refusal(self, request: HttpRequest) -> Response | None:
        origin = request.headers.get("origin")
        if origin and (urlsplit(origin).hostname or "") not in {"127.0.0.1", "localhost", "::1"}:
            return _error(403, "Requests from other sites are refused.", "forbidden")
        sent = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self.key and not hmac.compare_digest(sent.encode(), self.key.encode()):
            return _error(401, f"The key is not the one in {KEY_VARIABLE}.", "invalid_api_key")
        return None

    def _answers(self, asked: Completion) -> Iterator[Answers]:
        turns = tuple(message.message() for message in asked.messages)
        run = "" if asked.model == BASE else self.run.id
        question = uuid.uuid4().hex
        answers = client.ask([Column(run=run, turns=turns)], asked.settings, question, self.run.id)
        return _until_stop(answers, asked.stop, question) if asked.stop else answers


def _until_stop(
    answers: Iterator[Answers], stops: Sequence[str], question: str
) -> Iterator[Answers]:
    """Yield an answer up to the first of some texts, and end its generation there.

    The end of a text that may become one of them is held back until more is known.
    """
    for latest in answers:
        text = latest.texts[0]
        at = min((found for stop in stops if (found := text.find(stop)) >= 0), default=None)
        if at is None:
            shown = text if latest.is_done else text[: len(text) - _held_back(text, stops)]
            yield replace(latest, texts=(shown,))
            continue
        if not latest.is_done:
            client.stop(question)
            *_, latest = (latest, *answers)  # the last one counts the tokens
        yield replace(latest, texts=(text[:at],), cut=frozenset(), is_done=True)
        return


def _held_back(text: str, stops: Sequence[str]) -> int:
    """Return how many characters at the end of a text may begin one of the stops."""
    beginnings = (stop[:length] for stop in stops for length in range(1, len(stop)))
    return max((len(one) for one in beginnings if text.endswith(one)), default=0)


def _next_text(answers: Iterator[Answers]) -> Answers | None:
    """Return the next state with text or the last one; None at the end."""
    return next((one for one in answers if one.texts[0] or one.is_done), None)


def _whole(asked: Completion, first: Answers | None, answers: Iterator[Answers]) -> dict[str, Any]:
    last = [first, *answers][-1]
    text = last.texts[0] if last else ""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": _reason(last), "logprobs": None}
    return _head(asked, "chat.completion") | {"choices": [choice], "usage": _usage(last)}


def _events(asked: Completion, first: Answers | None, answers: Iterator[Answers]) -> Iterator[str]:
    """Yield the answer as server-sent events; an error in the middle is the last event."""
    head = _head(asked, "chat.completion.chunk") | ({"usage": None} if asked.has_usage else {})
    sent, last = 0, first

    def event(delta: dict[str, str], reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        return f"data: {json.dumps(head | {'choices': [choice]})}\n\n"

    yield event({"role": "assistant", "content": ""})
    try:
        while last is not None:
            text = last.texts[0]
            if len(text) > sent:
                yield event({"content": text[sent:]})
                sent = len(text)
            if last.is_done:
                break
            last = next(answers, None)
    except OrpoQloraError as exc:
        yield f"data: {json.dumps({'error': {'message': str(exc), 'type': exc.slug}})}\n\n"
        return
    yield event({}, _reason(last))
    if asked.has_usage:
        yield f"data: {json.dumps(head | {'choices': [], 'usage': _usage(last)})}\n\n"
    yield "data: [DONE]\n\n"


def _usage(last: Answers | None) -> dict[str, int]:
    prompt, answer = (sum(last.prompt_tokens), sum(last.tokens)) if last else (0, 0)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
    }


def _reason(last: Answers | None) -> str:
    return "length" if last is not None and last.cut else "stop"


def _head(asked: Completion, kind: str) -> dict[str, Any]:
    name = f"chatcmpl-{uuid.uuid4().hex}"
    return {"id": name, "object": kind, "created": int(time.time()), "model": asked.model}


def _status_of(error: OrpoQloraError) -> int:
    if isinstance(error, InputError):
        return 400
    return 503 if isinstance(error, ResourceError) else 500


def _error(status: int, message: str, kind: str, parameter: str | None = None) -> JSONResponse:
    error = {"message": message, "type": kind, "param": parameter, "code": kind}
    return JSONResponse({"error": error}, status_code=status)


def main(arguments: Sequence[str]) -> int:
    """Serve the run of that id on that port until it is interrupted; return the exit code."""
    run_id, port = arguments
    run = store.read_run(store.paths_of(run_id))
    app = Endpoint(run, os.environ.get(KEY_VARIABLE, "").strip()).app()
    uvicorn.run(app, host=HOST, port=int(port), log_level="warning", access_log=False)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
