"""The real page in the real browser."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, Request, sync_playwright

ROOT = Path(__file__).parents[1]
READY_SECONDS = 120


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
        process.wait(30)
        if drain.ident is not None:
            drain.join()
        process.stdout.close()


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the system's Chromium; its absence is an error, not a reason to skip."""
    executable = shutil.which("chromium") or shutil.which("chromium-browser")
    if executable is None:
        raise FileNotFoundError("the browser tests need Chromium: apt install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable,
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"],
        )
        yield browser
        browser.close()


def watch_errors(page: Page) -> list[str]:
    """Return a list that fills with whatever goes wrong in the page."""
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    page.on("requestfailed", lambda request: _note_failure(errors, request))
    return errors


def _note_failure(errors: list[str], request: Request) -> None:
    # Gradio closes the stream of an event itself once the event has ended, and a reload breaks off
    # what is being asked.
    is_ours = "/queue/data" in request.url or "/run/predict" in request.url
    if not (request.failure == "net::ERR_ABORTED" and is_ours):
        errors.append(f"{request.failure}: {request.url}")
