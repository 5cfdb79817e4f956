"""What stands before a page that others can reach: nothing of it answers without the password.

Floor 5; page process. Gradio's own login leaves some of its routes open and lets passwords be tried
without end, so this one lies before Gradio as a whole.
"""

from __future__ import annotations

import asyncio
import html
import logging
import math
import secrets
from pathlib import Path
from string import Template
from urllib.parse import parse_qs

from starlette.requests import HTTPConnection, Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
)
from starlette.types import ASGIApp, Receive, Scope, Send

from orpo_qlora.ui.web.password import SESSION_SECONDS, BackOff, Password, Sessions

PAGE = Template(Path(__file__).with_name("login.html").read_text(encoding="utf-8"))
LOGIN_PATH = "/login"
STARTUP_PATH = "/gradio_api/startup-events"
"""Gradio calls this itself once it listens; it does nothing the second time and tells nothing."""
LONGEST_BODY_BYTES = 4096

log = logging.getLogger(__name__)


class Login:
    """Answer 401 to whoever has not given the password; the right one opens a session."""

    def __init__(self, app: ASGIApp, password: Password) -> None:
        self.app = app
        self._password = password
        self._sessions, self._back_off = Sessions(), BackOff()
        # Cookies do not know ports: two pages of one machine must not overwrite each other's.
        self._cookie = f"orpo-qlora-{secrets.token_hex(4)}"
        self._one_at_a_time = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request with an open session on; ask for the password before anything else."""
        if self._may_pass(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            response = await self._answer(Request(scope, receive))
            await response(scope, receive, send)

    def _may_pass(self, scope: Scope) -> bool:
        if scope["type"] not in {"http", "websocket"}:
            return True
        return not _is_login(scope) and (scope["path"] == STARTUP_PATH or self._is_open(scope))

    def _is_open(self, scope: Scope) -> bool:
        return self._sessions.is_open(HTTPConnection(scope).cookies.get(self._cookie, ""))

    async def _answer(self, request: Request) -> Response:
        if request.method != "POST" or not _is_login(request.scope):
            # The page that asks is kept in the browser's history.
            return _lead_in(request) if self._is_open(request.scope) else _ask(request)
        text = await _given_password(request)
        if text is None:
            return PlainTextResponse("That is no password.", status_code=413)
        address = request.client.host if request.client else ""
        # One at a time, so that tries sent together count one after the other.
        async with self._one_at_a_time:
            wait = self._back_off.wait_seconds(address)
            if wait:
                message = f"Too many wrong passwords. Try again in {math.ceil(wait)} seconds."
                headers = {"Retry-After": str(math.ceil(wait))}
                return _ask(request, message, status=429, headers=headers)
            if not await asyncio.to_thread(self._password.matches, text):
                self._back_off.failed(address)
                log.warning("wrong password from %r", address)
                return _ask(request, "That is not the password.")
            self._back_off.succeeded(address)
        return self._welcome(request)

    def _welcome(self, request: Request) -> Response:
        response = _lead_in(request) if _is_browser(request) else JSONResponse({"success": True})
        response.set_cookie(
            self._cookie,
            self._sessions.open(),
            max_age=int(SESSION_SECONDS),
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
        return response


def _is_login(scope: Scope) -> bool:
    return bool(scope["path"].rstrip("/") == LOGIN_PATH)


def _lead_in(request: Request) -> Response:
    # The path is fixed: one taken from the request could lead to another site.
    query = f"?{request.url.query}" if request.url.query else ""
    return RedirectResponse(f"/{query}", status_code=303)


async def _given_password(request: Request) -> str | None:
    """Return the password of a form, empty if there is none; None if the form is far too long."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LONGEST_BODY_BYTES:
            return None
    given = parse_qs(body.decode("utf-8", "replace")).get("password", [""])
    return given[0].strip()


def _is_browser(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


def _ask(
    request: Request, message: str = "", status: int = 401, headers: dict[str, str] | None = None
) -> Response:
    """Return the page that asks for the password, or a sentence for a program."""
    headers = {"Cache-Control": "no-store", **(headers or {})}
    if not _is_browser(request):
        return PlainTextResponse(message or "Log in first.", status, headers)
    query = f"?{request.url.query}" if request.url.query else ""
    text = PAGE.substitute(action=html.escape(f"{LOGIN_PATH}{query}"), message=html.escape(message))
    return HTMLResponse(text, status, headers)
