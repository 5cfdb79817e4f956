"""The login of a page that others can reach. Floor 6; page process.

A middleware in front of Gradio, whose own login leaves some routes open and allows any number of
attempts.
"""

from __future__ import annotations

import hmac
import html
import logging
import math
import os
import secrets
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from string import Template
from urllib.parse import parse_qs

from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
)
from starlette.types import ASGIApp, Receive, Scope, Send

from orpo_qlora.errors import InputError

PASSWORD_VARIABLE = "ORPO_QLORA_PASSWORD"
MIN_PASSWORD_LENGTH = 8
TOKEN_BYTES = 16
MAX_FAILURES, FAILURE_WINDOW_SECONDS = 10, 60.0
SESSION_SECONDS = 7 * 24 * 3600
MAX_FORM_BYTES = 4096
PAGE = Template(Path(__file__).with_name("login.html").read_text(encoding="utf-8"))
LOGIN_PATH = "/login"
OPEN = "is_open"
"""Key of a session that the password opened."""
STARTUP_PATH = "/gradio_api/startup-events"
"""Gradio requests this from itself once it listens. A second request has no effect or content."""

Clock = Callable[[], float]

log = logging.getLogger(__name__)


def new_token() -> str:
    """Return a random password of 128 bits."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def take_password() -> str:
    """Return the password from the environment and remove it there, so no child inherits it.

    Returns:
        The password; empty if none is set.

    Raises:
        InputError: the password is too short.
    """
    password = os.environ.pop(PASSWORD_VARIABLE, "").strip()
    if password and len(password) < MIN_PASSWORD_LENGTH:
        raise InputError(
            f"The password in {PASSWORD_VARIABLE} is too short.",
            hint=f"Use at least {MIN_PASSWORD_LENGTH} characters, or unset it for a random one.",
        )
    return password


class Login:
    """Answers 401 to every request without a session; the password opens one."""

    def __init__(self, app: ASGIApp, password: str) -> None:
        self.app = app
        self._password = _encoded(password)
        self._attempts = AttemptLimit()
        sessions = partial(
            SessionMiddleware,
            self._check,
            # Known to this process alone: a session ends with it.
            secret_key=secrets.token_hex(32),
            # Cookies are shared by all ports of a host: two pages must not overwrite each other's.
            session_cookie=f"orpo-qlora-{secrets.token_hex(4)}",
            max_age=SESSION_SECONDS,
            same_site="strict",
        )
        self._plain, self._tls = sessions(), sessions(https_only=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the session, then check the request; a cookie set over TLS stays on TLS."""
        is_tls = scope.get("scheme") in {"https", "wss"}
        await (self._tls if is_tls else self._plain)(scope, receive, send)

    async def _check(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request with a session; answer any other with the login form."""
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
        if _is_login(scope):
            return False
        return scope["path"] == STARTUP_PATH or _has_session(scope)

    async def _answer(self, request: Request) -> Response:
        if request.method != "POST" or not _is_login(request.scope):
            # Browsers keep the login page in their history.
            return _to_page(request) if _has_session(request.scope) else _form(request)
        given = await _given_password(request)
        if given is None:
            return PlainTextResponse("The form is too large.", status_code=413)
        # No `await` from here on, so attempts sent together are counted one after the other.
        wait = math.ceil(self._attempts.wait_seconds())
        if wait:
            message = f"Too many wrong passwords. Try again in {wait} seconds."
            return _form(request, message, status=429, headers={"Retry-After": str(wait)})
        if not hmac.compare_digest(_encoded(given), self._password):
            self._attempts.record_failure()
            log.warning("wrong password from %r", request.client and request.client.host)
            return _form(request, "Wrong password.")
        response = _to_page(request) if _is_browser(request) else JSONResponse({"success": True})
        request.session[OPEN] = True
        return response


class AttemptLimit:
    """Counts wrong passwords of the whole process: ten a minute."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._failures: deque[float] = deque(maxlen=MAX_FAILURES)

    def wait_seconds(self) -> float:
        """Return the seconds until the next attempt is allowed; 0 if it is allowed now."""
        if len(self._failures) < MAX_FAILURES:
            return 0.0
        return max(0.0, self._failures[0] + FAILURE_WINDOW_SECONDS - self._clock())

    def record_failure(self) -> None:
        """Count a wrong password."""
        self._failures.append(self._clock())


def _has_session(scope: Scope) -> bool:
    return bool(scope["session"].get(OPEN))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _is_login(scope: Scope) -> bool:
    return bool(scope["path"].rstrip("/") == LOGIN_PATH)


def _to_page(request: Request) -> Response:
    # The path is fixed: one taken from the request could lead to another site.
    return RedirectResponse(f"/{_query(request)}", status_code=303)


def _query(request: Request) -> str:
    return f"?{request.url.query}" if request.url.query else ""


async def _given_password(request: Request) -> str | None:
    """Return the password of a form, empty if it has none; None if the form is too large."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            return None
    return parse_qs(body.decode("utf-8", "replace")).get("password", [""])[0].strip()


def _is_browser(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


def _form(
    request: Request, message: str = "", status: int = 401, headers: dict[str, str] | None = None
) -> Response:
    """Return the login form for a browser, a sentence for a program."""
    headers = {"Cache-Control": "no-store", **(headers or {})}
    if not _is_browser(request):
        return PlainTextResponse(message or "Log in first.", status, headers)
    action = html.escape(f"{LOGIN_PATH}{_query(request)}")
    text = PAGE.substitute(action=action, message=html.escape(message))
    return HTMLResponse(text, status, headers)
