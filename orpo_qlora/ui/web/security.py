"""Protects the page from other web pages, other machines and the environment. Floor 6.

docs/security.md lists the threats. Do not import Gradio here: it reads the environment on import,
which is cleaned first.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orpo_qlora import storage
from orpo_qlora.errors import InputError
from orpo_qlora.ui.web.upload_limit import UPLOADS

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost"})
NAME = re.compile(r"[\w.-]+", re.ASCII)
SERVER_VARIABLES = ("GRADIO_", "SPACE_", "FORWARDED_ALLOW_IPS", "WEB_CONCURRENCY")

# Gradio's page has inline scripts, and its plots and event scripts are compiled in the browser.
CONTENT_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    # Not "no-referrer": with that a browser sends the form of the login with `Origin: null`.
    "Referrer-Policy": "same-origin",
}


@dataclass(frozen=True)
class AllowedHosts:
    """The Host headers that the page answers; more than this machine only with a login."""

    names: frozenset[str]
    any_address: bool
    """Whether every IP address is allowed. DNS rebinding points a name at this machine, never an
    address."""

    @classmethod
    def of(cls, host: str, public_names: Sequence[str] = ()) -> AllowedHosts:
        """Return the hosts of a page that listens on `host`.

        Args:
            host: address to listen on.
            public_names: host names that a proxy forwards.

        Raises:
            InputError: the page cannot listen there.
        """
        if not host or ":" in host:
            raise InputError(
                f"The page cannot listen on “{host}”.",
                hint="Give an IPv4 address of this machine, or 0.0.0.0 for all of them.",
                where="--host",
            )
        for name in public_names:
            if not NAME.fullmatch(name):
                raise InputError(
                    f"“{name}” is not a host name.",
                    hint="Give it without scheme, port and path, like studio.example.org.",
                    where="--public-name",
                )
        names = {name.lower() for name in (*LOOPBACK_HOSTS, *public_names)}
        if host in LOOPBACK_HOSTS:
            return cls(frozenset(names), any_address=False)
        name = socket.gethostname()  # the full name would take a DNS query
        own = {host, name, f"{name}.local"}
        return cls(frozenset(names | {name.lower() for name in own}), any_address=True)

    @property
    def needs_login(self) -> bool:
        """Whether other machines can reach the page."""
        return self.any_address or self.names > LOOPBACK_HOSTS

    def includes(self, host: str) -> bool:
        """Return whether a Host header is allowed."""
        name, _, port = host.partition(":")
        if port and not port.isdecimal():
            return False
        return name.lower() in self.names or (self.any_address and _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ipaddress.IPv4Address(name)
    except ValueError:
        return False
    return True


def enter_private_folder(private: Path) -> None:
    """Put uploads into a folder of this page, and make an empty one the working folder.

    Gradio may serve any file of the working folder and of the temporary folder, and by default
    shares its upload folder with every other Gradio program of the machine.
    """
    empty, uploads = private / "empty", private / UPLOADS
    empty.mkdir(mode=0o700)
    uploads.mkdir(mode=0o700)
    # A relative home is relative to the folder the program was started in.
    os.environ[storage.HOME_VARIABLE] = str(storage.home())
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    tempfile.tempdir = str(private)
    os.chdir(empty)


def clean_environment(host: str = "127.0.0.1") -> None:
    """Remove variables that change what the page serves or which proxies it trusts.

    Gradio reads dozens of `GRADIO_*` variables, some on import, and an empty `allowed_paths` falls
    back to one; with `SPACE_*` it acts as hosted. Uvicorn trusts the forwarded addresses of the
    proxies in `FORWARDED_ALLOW_IPS`.
    """
    for name in [name for name in os.environ if name.startswith(SERVER_VARIABLES)]:
        del os.environ[name]
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    # Gradio requests its own page at start, which a proxy could not forward.
    exceptions = os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or ""
    own = ",".join(filter(None, (exceptions, *sorted({*LOOPBACK_HOSTS, host}))))
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = own


class SameOrigin:
    """Refuses requests from other web pages, and requests for a foreign host name.

    Gradio executes cross-origin requests and only hides their responses; with a name that resolves
    to 127.0.0.1 (DNS rebinding) another page could read them too.
    """

    def __init__(self, app: ASGIApp, allowed: AllowedHosts) -> None:
        self.app = app
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 400 (foreign host) or 403 (foreign origin)."""
        if scope["type"] not in {"http", "websocket"}:
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(Headers(scope=scope))
        if refusal is not None:
            await refusal(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        await self.app(scope, receive, send_guarded)

    def _refusal(self, headers: Headers) -> PlainTextResponse | None:
        host = headers.get("host", "")
        if not self._allowed.includes(host):
            return PlainTextResponse("Unknown host.", status_code=400)
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return _foreign()
        # Images and scripts in another page send no Origin. Links to this page are fine.
        is_link = headers.get("sec-fetch-mode") == "navigate"
        if headers.get("sec-fetch-site", "none") not in {"same-origin", "none"} and not is_link:
            return _foreign()
        return None


def _foreign() -> PlainTextResponse:
    return PlainTextResponse("Requests from other pages are refused.", status_code=403)
