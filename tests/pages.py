"""The real page in the real browser."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path

from playwright.sync_api import (
    Browser,
    BrowserContext,
    Page,
    Request,
    Response,
    expect,
    sync_playwright,
)

ROOT = Path(__file__).parents[1]
READY_SECONDS = 120
END_SECONDS = 120
ARGUMENTS = (
    *("--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"),
    # Without a graphics card, what turns and glides would take a core from the programs.
    "--force-prefers-reduced-motion",
)
ELSEWHERE = re.compile(r"^(https?|wss?)://(?!127\.0\.0\.1[:/])")
"""Nothing of the page comes from another machine."""
# A busy machine may need far more than the five seconds a condition has otherwise.
expect.set_options(timeout=120_000)


@contextmanager
def served_page() -> Iterator[str]:
    """Start `python app.py` on a free port as a person would; give its address."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "app.py"), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=os.environ.copy(),
    )
    watchdog = threading.Timer(READY_SECONDS, process.kill)
    watchdog.start()
    said = []
    drain = threading.Thread(target=process.stdout.read, daemon=True)
    try:
        for line in process.stdout:
            said.append(line)
            if "http://" in line:
                break
        else:
            raise AssertionError("the page did not open:\n" + "".join(said))
        watchdog.cancel()
        # Drained, so that the page can never block on a full pipe.
        drain.start()
        yield line[line.index("http://") :].split()[0]
    finally:
        watchdog.cancel()
        process.terminate()
        try:
            process.wait(END_SECONDS)
        finally:
            process.kill()
            process.wait()
        if drain.ident is not None:
            drain.join()
        process.stdout.close()


class SharedBrowser:
    """The one Chromium of this process: started at its first use, closed by `close`."""

    def __init__(self) -> None:
        self._running = ExitStack()
        self._browser: Browser | None = None

    def start(self) -> Browser:
        """Return the browser; its absence is an error, not a reason to skip."""
        if self._browser is None:
            executable = shutil.which("chromium") or shutil.which("chromium-browser")
            if executable is None:
                raise FileNotFoundError("the browser tests need Chromium: apt install chromium")
            playwright = self._running.enter_context(sync_playwright())
            self._browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
            self._running.callback(self._browser.close)
        return self._browser

    def close(self) -> None:
        self._running.close()
        self._browser = None


shared_browser = SharedBrowser()


@contextmanager
def chromium() -> Iterator[Browser]:
    """Give the browser of this process; pages opened in the block are closed with it.

    Tests share one browser, which tests/conftest.py closes at the end of the session.
    """
    is_test = "PYTEST_VERSION" in os.environ
    browser = shared_browser.start()
    before = list(browser.contexts)
    try:
        yield browser
    finally:
        for context in browser.contexts:
            if context not in before:
                context.close()
        if not is_test:
            shared_browser.close()


def open_page(page: Page, address: str = "") -> None:
    """Open an address, or reload the same one, and wait until no request is left.

    What the page asks for as it opens may be answered late on a busy machine: whatever a test has
    typed or counted by then could change once more.
    """
    load = page.reload if not address else partial(page.goto, address)
    load(wait_until="networkidle", timeout=1000 * READY_SECONDS)


def watch_errors(page: Page) -> list[str]:
    """Return a list that fills with whatever goes wrong in the page."""
    errors: list[str] = []
    page.on("pageerror", lambda error: _note_error(errors, f"{error.name}: {error.message}"))
    page.on("console", lambda m: _note_error(errors, m.text) if m.type == "error" else None)
    page.on("requestfailed", lambda request: _note_failure(errors, request))
    page.on("response", lambda response: _note_answer(errors, response))
    page.on("request", lambda asked: errors.append(asked.url) if ELSEWHERE.match(asked.url) else 0)
    return errors


@contextmanager
def watched_page(
    browser: Browser, width: int = 1280, height: int = 900, address: str | None = None
) -> Iterator[Page]:
    """A page in a context of its own; whatever goes wrong in it fails the test.

    Judged while it is open: what the browser gives up when it closes is nobody's mistake.

    Args:
        browser: the browser.
        width: of the window, in pixels.
        height: of the window, in pixels.
        address: what paths like “/” are completed with.
    """
    context = browser.new_context(viewport={"width": width, "height": height}, base_url=address)
    try:
        with watched_tab(context) as page:
            yield page
    finally:
        context.close()


@contextmanager
def watched_tab(context: BrowserContext) -> Iterator[Page]:
    """A page in a context that others may share, which has the scripts in its cache."""
    page = context.new_page()
    try:
        errors = watch_errors(page)
        page.on("dialog", lambda dialog: (errors.append(dialog.message), dialog.dismiss()))
        yield page
        page.evaluate("0")  # events are handed over during calls: one more, so that none is missed
        assert errors == [], errors
    finally:
        page.close()


def _note_error(errors: list[str], text: str) -> None:
    # A page that is left gives up its open stream or its last request, and may have the time to say
    # so. A server that fails shows as a failed request too.
    if not text.startswith(("AbortError: ", "Unexpected error Connection errored out.")):
        errors.append(text)


def _note_failure(errors: list[str], request: Request) -> None:
    # "Aborted" is what the page itself gave up: by a reload, a download, or because Gradio closes
    # the stream of an ended event. A server that fails shows as another error, or as a status.
    if request.failure != "net::ERR_ABORTED":
        errors.append(f"{request.failure}: {request.url}")


def _note_answer(errors: list[str], response: Response) -> None:
    if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        errors.append(f"HTTP {response.status}: {response.url}")
