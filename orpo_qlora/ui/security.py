"""What keeps other web pages, other machines and the environment out of the page. Floor 5.

The reasons are in docs/security.md; there is no login yet, so the page serves this machine only.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orpo_qlora import storage
from orpo_qlora.errors import InputError

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost"})

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
    "Referrer-Policy": "no-referrer",
}


def refuse_exposed(host: str) -> None:
    """Allow this machine's own address only.

    Raises:
        InputError: others could reach the page, and it has no login.
    """
    if host not in LOOPBACK_HOSTS:
        raise InputError(
            f"The page will not listen on {host}: it has no login yet, so anybody who can reach "
            "that address could train, chat and read your data.",
            hint="Leave --host away, and from another machine use a tunnel: "
            "ssh -L 7860:127.0.0.1:7860 THIS-MACHINE.",
            where="--host",
        )


def enter_private_folder(private: Path) -> None:
    """Keep uploads in a folder of our own, and work in an empty one.

    Gradio may hand out any file of the working folder and of the temporary folder, and by default
    shares its upload folder with every other Gradio program of the machine.
    """
    empty, uploads = private / "empty", private / "uploads"
    empty.mkdir(mode=0o700)
    uploads.mkdir(mode=0o700)
    # Relative settings of the person mean the folder the program was started in.
    os.environ[storage.HOME_VARIABLE] = str(storage.home())
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    tempfile.tempdir = str(private)
    os.chdir(empty)


def clean_environment() -> None:
    """Let no variable of the environment change what the page serves.

    Gradio reads dozens of `GRADIO_*` variables, and an empty `allowed_paths` falls back to one.
    """
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    # Gradio asks its own page whether it is up; a proxy cannot know.
    exceptions = os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or ""
    own = ",".join(filter(None, (exceptions, *sorted(LOOPBACK_HOSTS))))
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = own


class SameOrigin:
    """Refuse requests that another web page makes, or that use another name for this machine.

    Gradio runs cross-origin requests and only hides their answers; a name that resolves to
    127.0.0.1 (DNS rebinding) would even get to read them.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 400 (foreign host) or 403 (foreign origin)."""
        if scope["type"] not in {"http", "websocket"}:
            await self.app(scope, receive, send)
            return
        refusal = _refusal(Headers(scope=scope))
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


def _refusal(headers: Headers) -> PlainTextResponse | None:
    host = headers.get("host", "")
    if host.rsplit(":", 1)[0] not in LOOPBACK_HOSTS:
        return PlainTextResponse("Unknown host.", status_code=400)
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != host:
        return PlainTextResponse("Requests from other pages are refused.", status_code=403)
    return None
