"""The `/watch` endpoint, which open tabs poll for the live parts of a run. Floor 6.

Gradio answers the same poll with ten times the processor time, nearly all of it for components that
do not change. A run that trains on the CPU would lose that time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from urllib.parse import quote, unquote

from starlette.concurrency import run_in_threadpool
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from orpo_qlora.charts.view import Choices
from orpo_qlora.errors import OrpoQloraError
from orpo_qlora.ui.runs import live_view, run_view, snapshot
from orpo_qlora.ui.runs import tab as runs_tab
from orpo_qlora.ui.runs.snapshot import FED, Snapshot

PATH = "/watch"
HEADERS = {"cache-control": "no-store"}
CHOICES = 4
CACHED_PARTS = 32
GZIP_LEVEL = 1
"""Of 9: five times smaller in a fifth of the time of level 9."""


class Watch:
    """ASGI middleware that answers `GET /watch?run=ID&choices=JSON`; passes on all other requests.

    The ETag holds the fingerprint of every part of the Runs tab (`snapshot.seen_token`,
    URL-encoded). A tab sends what it shows as `If-None-Match` and receives

    - 304 if nothing changed,
    - `{"parts": {element id: text}}` and a new ETag if a text changed,
    - `{"refresh": true}` if Gradio has to update the tab: more than a text changed, the run ended,
      or an error has to be shown.
    """

    def __init__(self, app: ASGIApp, is_busy: Callable[[], bool]) -> None:
        self.app = app
        self._is_busy = is_busy
        self._compressed = GZipMiddleware(self._answer, compresslevel=GZIP_LEVEL)
        self._rendered: dict[tuple[str, Choices, str], tuple[str, dict[str, str]]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a poll; pass on everything else."""
        is_poll = scope["type"] == "http" and scope["path"] == PATH
        await (self._compressed if is_poll else self.app)(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        shown = request.headers.get("if-none-match", "")
        response = await run_in_threadpool(self.poll, request.query_params, shown)
        await response(scope, receive, send)

    def poll(self, query: Mapping[str, str], shown: str) -> Response:
        """Return the answer for a tab.

        Args:
            query: `run`, and the user's `choices` as a JSON list.
            shown: ETag of what the tab shows.
        """
        try:
            now = snapshot.take_snapshot(query.get("run", ""))
            is_over = not now.run.is_at_work and not self._is_awaited(now.run.id)
        except OrpoQloraError:
            return _refresh()  # Gradio's handler meets the same error and shows it
        choices = _choices_in(query)
        prints = snapshot.short_prints(now, choices)
        known = _fingerprints_in(shown)
        changed = [name for name, print_ in prints.items() if known.get(name) != print_]
        if is_over or not FED.issuperset(changed):
            return _refresh()
        headers = {**HEADERS, "etag": f'"{quote(json.dumps(prints))}"'}
        if not changed:
            return Response(status_code=304, headers=headers)
        parts: dict[str, str] = {}
        for name in changed:
            parts |= self._render(now, choices, name, prints[name])
        return JSONResponse({"parts": parts}, headers=headers)

    def _render(self, now: Snapshot, choices: Choices, part: str, print_: str) -> dict[str, str]:
        """Return a part's texts by element id; rendered once for tabs that show the same."""
        key = (now.run.id, choices, part)
        cached = self._rendered.get(key)
        if cached is None or cached[0] != print_:
            if len(self._rendered) >= CACHED_PARTS:
                self._rendered.clear()
            cached = self._rendered[key] = (print_, _render(now, choices, part))
        return cached[1]

    def _is_awaited(self, run_id: str) -> bool:
        return self._is_busy() or runs_tab.awaits_more(run_id)


def _render(now: Snapshot, choices: Choices, part: str) -> dict[str, str]:
    if part == "status":
        return {run_view.STATUS: run_view.status_card(now)}
    if part == "log":
        return {run_view.LOG: now.log}
    return live_view.draw(now, choices.chart)


def _refresh() -> Response:
    return JSONResponse({"refresh": True}, headers=HEADERS)


def _choices_in(query: Mapping[str, str]) -> Choices:
    values = _parsed(query.get("choices", ""))
    return Choices.of(values[:CHOICES] if isinstance(values, list) else ())


def _fingerprints_in(etag: str) -> dict[str, object]:
    # A proxy that compresses turns an ETag into a weak one.
    found = _parsed(unquote(etag.removeprefix("W/").strip('"')))
    return found if isinstance(found, dict) else {}


def _parsed(text: str) -> object:
    """Return the value of a JSON text; None if it is malformed."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
