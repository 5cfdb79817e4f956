"""axe-core on every tab as somebody has it who has trained: nothing serious."""

import math

import pytest
from axe_playwright_python.sync_playwright import Axe
from pages import chromium, open_page, served_page, watched_page
from playwright.sync_api import expect

from orpo_qlora import storage
from orpo_qlora.config import build_config
from orpo_qlora.data.examples import example_path
from orpo_qlora.data.pairs import load_preferences, split_pairs
from orpo_qlora.runs import store
from orpo_qlora.runs.curves import metrics
from orpo_qlora.runs.state import RunState
from orpo_qlora.ui.data import uploads

pytestmark = [pytest.mark.browser, pytest.mark.slow]

MINUTE = 60_000
STEPS = 8
DRAWN = {
    "data": "#data-continue",
    "train": "#train-start:enabled",
    "runs": "#run-status:has-text('finished')",
    "chat": "#chat-run",
}
"""For each tab what can be seen once it is drawn."""
AT_REST = "document.getAnimations().every((one) => !(one instanceof CSSTransition))"
"""A button that becomes enabled takes on its colours little by little."""


def make_run():
    dataset = load_preferences(example_path("hello"))
    config = build_config({"name": "First try", "max_steps": STEPS})
    paths = store.create_run(config, split_pairs(dataset.pairs, 0.2, 1), dataset.report)
    lines, samples = storage.JsonLines(paths.metrics), storage.JsonLines(paths.samples)
    for step in range(1, STEPS + 1):
        values = {name: 1 + math.sin(step) / 9 for name in metrics.NAMES}
        lines.append({**values, "step": step})
        if step % 4 == 0:
            lines.append({"step": step, **{f"eval/{name}": values[name] for name in values}})
            samples.append({"step": step, "when": "evaluation", "prompt": "Hi?", "answer": "No."})
    lines.close()
    samples.close()
    store.write_state(paths, RunState(status="finished", step=STEPS, total_steps=STEPS))
    return paths.id


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A browser, and the address of a page with a file and a run that has ended."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(storage.HOME_VARIABLE, str(tmp_path_factory.mktemp("axe") / "home"))
        kept = uploads.store_upload(example_path("hello"), "hello.csv")
        run = make_run()
        with served_page() as address, chromium() as browser:
            yield browser, f"{address}/?data={kept}&run={run}"


def serious(page):
    """Return what axe-core calls serious or worse, each with the elements it means."""
    return {
        found["id"]: [f"{node['html'][:200]} {node['failureSummary']}" for node in found["nodes"]]
        for found in Axe().run(page).response["violations"]
        if found["impact"] in {"serious", "critical"}
    }


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 390)])
def test_axe_finds_nothing_serious_on_any_tab(opened, theme, width):
    browser, address = opened
    with watched_page(browser, width) as page:
        page.emulate_media(reduced_motion="reduce")
        wrong = {}
        open_page(page, f"{address}&tab=data&__theme={theme}")
        for tab, drawn in DRAWN.items():
            page.get_by_role("tab", name=tab.title()).click()
            expect(page.locator(drawn)).to_be_visible(timeout=2 * MINUTE)
            page.wait_for_function(AT_REST)
            wrong |= {f"{tab}: {name}": nodes for name, nodes in serious(page).items()}
        assert wrong == {}, wrong
