"""The page process: command line, middleware, start and end. Floor 6.

Gradio reads the environment on import, so the page is imported after that is cleaned.
"""

from __future__ import annotations

import argparse
import errno
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.middleware import Middleware

from orpo_qlora import storage
from orpo_qlora.charts import style
from orpo_qlora.errors import InputError, OrpoQloraError
from orpo_qlora.ui.web import security
from orpo_qlora.ui.web.login import PASSWORD_VARIABLE, Login, new_token, take_password
from orpo_qlora.ui.web.private_folder import private_folder
from orpo_qlora.ui.web.security import AllowedHosts
from orpo_qlora.ui.web.upload_limit import UPLOAD_BYTES, UploadLimit

if TYPE_CHECKING:
    import gradio as gr

DEFAULT_PORT = 7860
LAST_PORT = 65_535
EXIT_BAD_INPUT = 2
PRIVATE_UMASK = 0o077
QUEUE_POLL_SECONDS = 0.05
"""Queue polling interval. Gradio's is a millisecond, which takes a twentieth of a core."""


def main() -> None:
    """Run `python app.py --host HOST --port PORT`."""
    parser = argparse.ArgumentParser(prog="app.py", description="Open the orpo-qlora page.")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; any other requires a login"
    )
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="0 takes a free port")
    parser.add_argument(
        "--public-name",
        action="append",
        default=[],
        metavar="NAME",
        help="host name that a proxy forwards; requires a login; repeatable",
    )
    arguments = parser.parse_args()
    try:
        allowed = AllowedHosts.of(arguments.host, arguments.public_name)
        serve(arguments.host, arguments.port, allowed)
    except OrpoQloraError as error:
        parser.exit(EXIT_BAD_INPUT, f"{error}\n")


def serve(host: str, port: int, allowed: AllowedHosts) -> None:
    """Serve the page until Ctrl-C or SIGTERM; `port` 0 takes a free one.

    Raises:
        InputError: the page cannot listen there, or the chosen password is too short.
    """
    os.umask(PRIVATE_UMASK)
    security.clean_environment(host)
    port = _usable_port(host, port)
    chosen = take_password()
    password = chosen or (new_token() if allowed.needs_login else "")
    with private_folder() as private:
        security.enter_private_folder(private)
        with _garbage_collection_off():
            page = open_page(host, port, _guards(allowed, password, private))
        closed = _closed_by_signal()
        if password:
            _print(_login_text(allowed, "" if chosen else password))
        _print(f"orpo-qlora is open at http://{host}:{port} (Ctrl-C closes it)")
        closed.wait()
        page.close(verbose=False)
    _print("The page is closed. Runs in progress continue; open the page again to watch them.")


@contextmanager
def _garbage_collection_off() -> Iterator[None]:
    """Speed up start by a tenth: the objects of the page are never collected anyway."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _guards(allowed: AllowedHosts, password: str, private: Path) -> list[Middleware]:
    """Return the middleware in front of Gradio, the outermost first; no password, no login."""
    login = [Middleware(Login, password=password)] if password else []
    return [
        Middleware(security.SameOrigin, allowed=allowed),
        *login,
        Middleware(UploadLimit, folder=private),
    ]


def _login_text(allowed: AllowedHosts, token: str) -> str:
    """Return the terminal's message about the login; `token` is empty for a chosen password."""
    text = f"The page asks for the password in {PASSWORD_VARIABLE}."
    if token:
        text = (
            f"The password is: {token}\n"
            f"It is valid until the page closes. Set {PASSWORD_VARIABLE} to choose one."
        )
    if allowed.needs_login:
        text += (
            "\nOther machines can reach the page and the connection is not encrypted: use a "
            "trusted network, or a proxy with TLS (--public-name)."
        )
    return text


def open_page(host: str, port: int, guards: list[Middleware]) -> gr.Blocks:
    """Serve the page in the background and return it."""
    # Not above: see this module's docstring.
    from orpo_qlora.ui.parts import theme
    from orpo_qlora.ui.runs.tab import advance_queue
    from orpo_qlora.ui.runs.watch import Watch
    from orpo_qlora.ui.studio import build_studio

    page = build_studio()
    page.queue(max_size=32, default_concurrency_limit=2, api_open=False)
    theme.insert_first_script()
    page._queue.sleep_when_free = QUEUE_POLL_SECONDS
    page._queue.progress_update_sleep_when_free = QUEUE_POLL_SECONDS
    # Statistics of all events after each one, for the monitoring that is off.
    page._queue.ANAYLTICS_CACHE_FREQUENCY = sys.maxsize
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        allowed_paths=[],
        blocked_paths=[str(storage.home())],
        max_file_size=UPLOAD_BYTES,
        show_error=False,
        enable_monitoring=False,
        run_history=False,
        mcp_server=False,
        ssr_mode=False,
        strict_cors=True,
        pwa=False,
        num_workers=0,
        root_path="",
        favicon_path=theme.FAVICON,
        footer_links=["settings"],
        theme=theme.build_theme(),
        css_paths=style.STYLES,
        head=theme.head(),
        app_kwargs={
            "docs_url": None,
            "redoc_url": None,
            "openapi_url": None,
            "middleware": [*guards, Middleware(Watch, is_busy=advance_queue)],
        },
    )
    return page


def _usable_port(host: str, port: int) -> int:
    if not 0 <= port <= LAST_PORT:
        raise InputError(
            f"There is no port {port}.",
            hint=f"Ports are numbers up to {LAST_PORT}; --port 0 takes a free one.",
            where="--port",
        )
    with socket.socket() as listener:
        # As the server does: a port in TIME_WAIT after a restart counts as free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as exc:
            if exc.errno not in {errno.EADDRINUSE, errno.EACCES}:
                raise InputError(
                    f"The page cannot listen on {host} ({exc.strerror}).",
                    hint="Give an address of this machine, or 0.0.0.0 for all of them.",
                    where="--host",
                ) from exc
            raise InputError(
                f"Port {port} is not available ({exc.strerror}); the page may be open already.",
                hint=f"Open http://{host}:{port}, or let --port 0 take a free one.",
                where="--port",
            ) from exc
        return int(listener.getsockname()[1])


def _closed_by_signal() -> threading.Event:
    """Return an event that Ctrl-C or SIGTERM sets, from now on."""
    closed = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: closed.set())
    return closed


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
