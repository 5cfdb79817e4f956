"""Pictures of every tab, from a real run: docs/screenshots/NAME-WIDTH-THEME.png.

Run: python -m docs.screenshots [--home FOLDER]   (about eight minutes on two CPU cores)

Opens the page as a person would and trains the example with the demo preset, unless the home folder
has a finished run already. Each tab is then seen wide and narrow, light and dark. What is compared
are the other finished runs on the same pairs: `orpo-qlora sweep` makes some.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page

from orpo_qlora.runs import store
from orpo_qlora.runs.store import Run

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from pages import chromium, served_page, watch_errors  # noqa: E402 - found by the line above

FOLDER = ROOT / "docs" / "screenshots"
WIDTHS = {1280: 860, 390: 844}
"""Heights of the window by its width."""
THEMES = ("light", "dark")
COLOURS = 128
"""Of a picture: a page has few, and its file is a third as large."""
TALLEST = 1700
"""Pixels; below there is more of the same."""
QUESTION = "Why do leaves change color in autumn?"
MINUTE = 60_000


def train(page: Page, address: str) -> None:
    """Take the example and train on it, as the README says."""
    page.goto(address)
    page.locator("#example-short_answers").click()
    page.locator("#data-continue").wait_for(timeout=MINUTE)
    page.locator("#data-continue").click()
    page.locator("#train-preset input").click()
    page.get_by_role("option", name="demo-cpu", exact=True).click()
    page.get_by_label("Run name").fill("Short answers")
    page.locator("#train-start:not([disabled])").click(timeout=MINUTE)
    page.locator("#run-status .pill").filter(has_text="finished").wait_for(timeout=30 * MINUTE)


def see_data(page: Page) -> None:
    """Show the example's summary, findings and first pairs."""
    page.locator("#example-short_answers").click()
    page.locator("#token-view .tokens").first.wait_for(timeout=3 * MINUTE)


def see_train(page: Page) -> None:
    """Show the settings with an estimate and one of them changed."""
    see_data(page)
    page.get_by_role("tab", name="Train").click()
    page.locator("#setting-epochs input").fill("1")
    page.locator('#train-changed [data-choice="reset:epochs"]').wait_for(timeout=MINUTE)
    page.wait_for_timeout(2000)  # an estimate that is known already shows itself
    if not page.locator("#estimate-view .estimate").count():
        page.locator("#estimate-start").click()
    page.locator("#estimate-view .estimate").wait_for(timeout=5 * MINUTE)


def see_run(page: Page) -> None:
    """Show the curves of the finished run."""
    page.locator("#run-status .pill").filter(has_text="finished").wait_for(timeout=MINUTE)
    page.locator("#plot-loss [data-curves]").first.wait_for(timeout=MINUTE)


def see_report(page: Page) -> None:
    """Show what the run changed on held-out pairs; evaluates the first time."""
    see_run(page)
    page.locator("#report-evaluate").wait_for(timeout=MINUTE)
    result = page.locator("#report-message")
    if "Tuned prefers" not in result.inner_text():
        page.locator("#report-evaluate").click()
    result.get_by_text("Tuned prefers").wait_for(timeout=20 * MINUTE)
    if not page.locator(".report").count():
        page.locator("#run-report-fold button").first.click()
    page.locator(".report").first.wait_for(timeout=20 * MINUTE)


def see_chat(page: Page) -> None:
    """Show one question answered by both."""
    page.locator("#chat-message textarea").fill(QUESTION)
    page.locator("#chat-send").click()
    page.locator("#chat-newest .chat-reply").first.wait_for(timeout=3 * MINUTE)
    page.locator("#chat-again:not([disabled])").wait_for(timeout=3 * MINUTE)


def see_comparison(page: Page) -> None:
    """Show several runs beside each other; those with other values of λ also against λ."""
    page.locator("#compare-sweep figure").first.wait_for(timeout=MINUTE)
    page.locator("#compare-curves [data-curves]").first.wait_for(timeout=MINUTE)


@dataclass(frozen=True)
class Shot:
    """What a picture shows."""

    tab: str
    see: Callable[[Page], None]
    part: str = ""
    """The part of the page, all of it if empty."""
    compares: bool = False
    """Whether it shows every finished run beside the others."""


SHOTS = {
    "data": Shot("data", see_data),
    "train": Shot("data", see_train),
    "runs": Shot("runs", see_run),
    "report": Shot("runs", see_report, "#run-report-fold"),
    "chat": Shot("chat", see_chat),
    "compare": Shot("runs", see_comparison, compares=True),
    "sweep": Shot("runs", see_comparison, "#compare-sweep", compares=True),
}


def save(picture: bytes, path: Path) -> None:
    """Write a picture with few colours, cut where nobody would scroll on."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image = image.crop((0, 0, image.width, min(image.height, TALLEST)))
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


def take(browser: Browser, address: str, name: str, width: int, theme: str) -> None:
    """Take one picture in a browser of its own."""
    shot = SHOTS[name]
    context = browser.new_context(viewport={"width": width, "height": WIDTHS[width]})
    page = context.new_page()
    errors = watch_errors(page)
    page.goto(f"{address}&tab={shot.tab}&__theme={theme}")
    shot.see(page)
    page.mouse.move(0, 0)
    page.wait_for_timeout(500)  # animations end
    part = page.locator(shot.part) if shot.part else None
    picture = part.screenshot() if part else page.screenshot(full_page=True)
    save(picture, FOLDER / f"{name}-{width}-{theme}.png")
    context.close()
    if errors:
        sys.exit(f"{name}, {width}, {theme}: " + "; ".join(errors))


def compared_runs(shown: Run) -> str:
    """Return the ids of finished runs on the same pairs, by λ.

    Without two values of λ there is nothing to compare: `orpo-qlora sweep` queues some.
    """
    alike = [run for run in store.list_runs() if run.report.sha256 == shown.report.sha256]
    ended = [run for run in alike if run.state.status == "finished" and run.id != shown.id]
    return ",".join(run.id for run in sorted(ended, key=lambda run: run.config.lambda_))


def main() -> None:
    """Train if need be, then take every picture."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--home", help="home folder; ORPO_QLORA_HOME or your own if not given")
    parser.add_argument("--run", default="", help="run to show; the newest if not given")
    parser.add_argument("--only", nargs="*", default=list(SHOTS), choices=list(SHOTS))
    arguments = parser.parse_args()
    if arguments.home:
        os.environ["ORPO_QLORA_HOME"] = arguments.home
    FOLDER.mkdir(exist_ok=True)
    with served_page() as address, chromium() as browser:
        if not any(run.state.status == "finished" for run in store.list_runs()):
            train(browser.new_page(), address)
        run = store.find_run(arguments.run or "last")
        asked = {False: f"run={run.id}", True: f"compare={compared_runs(run)}"}
        for name, width, theme in product(arguments.only, WIDTHS, THEMES):
            take(browser, f"{address}/?{asked[SHOTS[name].compares]}", name, width, theme)


if __name__ == "__main__":
    main()
