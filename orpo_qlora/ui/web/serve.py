"""The program of the page: how it is served, to whom, and until when. Floor 5.

Gradio reads its environment while it is imported, so the page is imported once that is clean.
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
from orpo_qlora.ui.web.login import Login
from orpo_qlora.ui.web.password import Password, open_password, password_file
from orpo_qlora.ui.web.private_folder import private_folder
from orpo_qlora.ui.web.security import Audience
from orpo_qlora.ui.web.upload_limit import UPLOAD_BYTES, UploadLimit

if TYPE_CHECKING:
    import gradio as gr

DEFAULT_PORT = 7860
LAST_PORT = 65_535
EXIT_BAD_INPUT = 2
PRIVATE_UMASK = 0o077
QUEUE_LOOK_SECONDS = 0.05
"""How often it is looked whether somebody waits. Gradio looks every millisecond, which takes a
twentieth of a core from a run that trains while nobody is there, and interrupts it as often."""
KEPT_OPEN_SECONDS = 15
"""How long a connection may be silent: a tab that watches a run must not make a new one each time
it asks."""


def main() -> None:
    """Serve the page as the command line asks: `python app.py --host HOST --port PORT`."""
    parser = argparse.ArgumentParser(prog="app.py", description="Open the orpo-qlora page.")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; another asks for a login"
    )
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="0 takes a free port")
    parser.add_argument(
        "--public-name",
        action="append",
        default=[],
        metavar="NAME",
        help="name under which a proxy passes requests on; asks for a login; repeatable",
    )
    arguments = parser.parse_args()
    try:
        audience = Audience.of(arguments.host, arguments.public_name)
        serve(arguments.host, arguments.port, audience)
    except OrpoQloraError as error:
        parser.exit(EXIT_BAD_INPUT, f"{error}\n")


def serve(host: str, port: int, audience: Audience) -> None:
    """Serve the page until the person ends it; `port` 0 takes a free one.

    Raises:
        InputError: the page cannot listen there, or its login cannot be read.
    """
    os.umask(PRIVATE_UMASK)
    security.clean_environment(host)
    port = _usable_port(host, port)
    password, is_new = open_password() if audience.needs_login else (None, None)
    with private_folder() as private:
        security.enter_private_folder(private)
        with _kept_alive():
            page = open_page(host, port, _guards(audience, password, private))
        if audience.needs_login:
            _say(_about_login(is_new))
        _say(f"orpo-qlora is open at http://{host}:{port} (Ctrl-C closes it)")
        _wait_for_end()
        page.close(verbose=False)
    _say("The page is closed. A run that is training goes on; open the page again to watch it.")


@contextmanager
def _kept_alive() -> Iterator[None]:
    """Look for no garbage: what a page is made of stays, and looking takes a tenth of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _guards(audience: Audience, password: Password | None, private: Path) -> list[Middleware]:
    """Return what a request passes before it reaches Gradio, the outermost first."""
    login = [Middleware(Login, password=password)] if password else []
    return [
        Middleware(security.SameOrigin, audience=audience),
        *login,
        Middleware(UploadLimit, folder=private),
    ]


def _about_login(new_password: str | None) -> str:
    file = password_file()
    if new_password:
        known = (
            f"The password is: {new_password}\n"
            f"It is shown this once only; {file} keeps nothing but a salted hash of it."
        )
    else:
        known = (
            "The password is the one that was shown when this was first done. "
            f"Forgotten? Delete {file} and start again."
        )
    return (
        f"Others can reach this page, so it asks for a password.\n{known}\n"
        "The connection is not encrypted: use it in a network you trust, or behind a proxy with "
        "TLS (--public-name)."
    )


def open_page(host: str, port: int, guards: list[Middleware]) -> gr.Blocks:
    """Serve the page in the background and return it."""
    # Here and not above: see this module's docstring.
    from orpo_qlora.ui.parts import theme
    from orpo_qlora.ui.runs.live_feed import LiveFeed
    from orpo_qlora.ui.runs.tab import is_busy
    from orpo_qlora.ui.studio import build_studio

    page = build_studio()
    page.queue(max_size=32, default_concurrency_limit=2, api_open=False)
    page._queue.sleep_when_free = QUEUE_LOOK_SECONDS
    page._queue.progress_update_sleep_when_free = QUEUE_LOOK_SECONDS
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
            "middleware": [*guards, Middleware(LiveFeed, is_busy=is_busy)],
        },
    )
    page.server.config.timeout_keep_alive = KEPT_OPEN_SECONDS
    return page


def _usable_port(host: str, port: int) -> int:
    if not 0 <= port <= LAST_PORT:
        raise InputError(
            f"There is no port {port}.",
            hint=f"Ports are numbers up to {LAST_PORT}; --port 0 takes a free one.",
            where="--port",
        )
    with socket.socket() as probe:
        # As the server itself does: a port in TIME_WAIT after a restart is not taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            if exc.errno not in {errno.EADDRINUSE, errno.EACCES}:
                raise InputError(
                    f"The page cannot listen on {host} ({exc.strerror}).",
                    hint="Give an address of this machine, or 0.0.0.0 for all of them.",
                    where="--host",
                ) from exc
            raise InputError(
                f"Port {port} cannot be used ({exc.strerror}); perhaps the page is already open.",
                hint=f"Open http://{host}:{port}, or let --port 0 take a free one.",
                where="--port",
            ) from exc
        return int(probe.getsockname()[1])


def _wait_for_end() -> None:
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    ended.wait()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
