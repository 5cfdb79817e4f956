"""Files in other shapes on the page: confirmed or corrected, and trained from."""

import json
import re

import pytest
from pages import chromium, open_page, served_page, watched_tab
from playwright.sync_api import expect

from orpo_qlora import storage
from orpo_qlora.data.pairs import read_pairs
from orpo_qlora.runs import store

pytestmark = [pytest.mark.browser, pytest.mark.slow]

MINUTE = 60_000
RANKED = [
    {"prompt": f"What is {n} and {n}?", "responses": ["Hm.", f"It is {2 * n}.", "No idea."],
     "scores": [5, 9, 1]}
    for n in range(4)
]  # fmt: skip
VERDICTS = [
    {"prompt": f"What is {n} and {n}?", "response_a": f"It is {2 * n}.", "response_b": "No idea.",
     "winner": n % 3}
    for n in range(6)
]  # fmt: skip


SIZE = {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """The home of all these tests, and a browser's context for its page."""
    home = tmp_path_factory.mktemp("shapes") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(storage.HOME_VARIABLE, str(home))
        with served_page() as address, chromium() as browser:
            yield home, browser.new_context(viewport=SIZE, base_url=address)


@pytest.fixture
def page(opened, own_home, monkeypatch):
    """The page as it opens, in its home; whatever goes wrong in it fails the test."""
    home, context = opened
    monkeypatch.setenv(storage.HOME_VARIABLE, str(home))
    with watched_tab(context) as page:
        open_page(page, "/")
        yield page


def upload(page, tmp_path, rows):
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    page.locator("#data-upload input[type=file]").set_input_files(str(path))


def start(page, model):
    """Start a run of one step with the model in a folder and return it when the step is done."""
    before = {run.id for run in store.list_runs()}
    page.locator("#data-continue").click()
    box = page.locator("#setting-model input")
    box.fill(str(model))
    box.press("Enter")
    page.locator("#group-optimisation button").first.click()
    steps = page.locator("#setting-max_steps input")
    steps.fill("1")
    steps.blur()
    expect(page.locator("#train-changed")).to_contain_text("Stop after steps: 0 → 1")
    expect(page.locator("#train-start")).to_be_enabled(timeout=MINUTE)
    page.locator("#train-start").click()
    expect(page.locator("#run-status")).to_contain_text(
        re.compile("finished|stopped"), timeout=5 * MINUTE
    )
    [run] = [run for run in store.list_runs() if run.id not in before]
    assert run.state.step == 1
    return run


def pairs_of(run):
    files = [path for path in (run.paths.train, run.paths.held_out) if path.is_file()]
    found = [pair for path in files for pair in read_pairs(path)]
    return {(pair.row, pair.prompt, pair.chosen, pair.rejected) for pair in found}


def test_a_ranked_file_is_trained_with_the_pairs_that_were_chosen(page, tmp_path, tiny_model):
    upload(page, tmp_path, RANKED)
    expect(page.locator("#data-shape input")).to_have_value("Ranked responses", timeout=MINUTE)
    expect(page.locator("#data-ranking")).to_contain_text("Each against all worse: 12 pairs")
    page.locator("#data-ranking").get_by_text("Best against rest: 8 pairs").click()
    expect(page.locator("#data-summary")).to_contain_text("8 pairs usable", timeout=MINUTE)
    run = start(page, tiny_model)
    assert pairs_of(run) == {
        (n + 1, f"What is {n} and {n}?", f"It is {2 * n}.", worse)
        for n in range(4)
        for worse in ("Hm.", "No idea.")
    }


def test_a_verdict_is_corrected_and_trained(page, tmp_path, tiny_model):
    upload(page, tmp_path, VERDICTS)
    expect(page.locator("#data-error")).to_contain_text("“winner” holds 0, 1, 2", timeout=MINUTE)
    expect(page.locator("#data-shape input")).to_have_value("Two responses, verdict")
    expect(page.locator("#column-verdict input")).to_have_value("winner")
    page.locator("#data-first-values").get_by_role("textbox").fill("0")
    page.locator("#data-second-values").get_by_role("textbox").fill("2")
    page.locator("#data-columns-use").click()
    expect(page.locator("#data-summary")).to_contain_text("4 pairs usable", timeout=MINUTE)
    run = start(page, tiny_model)
    assert pairs_of(run) == {
        (n + 1, f"What is {n} and {n}?", *answers[:: 1 if n % 3 == 0 else -1])
        for n in (0, 2, 3, 5)
        for answers in [(f"It is {2 * n}.", "No idea.")]
    }


def test_a_common_prefix_is_confirmed_by_its_button(page, tmp_path):
    rows = [{"chosen": f"What is {n}? A number.", "rejected": f"What is {n}? No idea."}
            for n in range(3)]  # fmt: skip
    upload(page, tmp_path, rows)
    card = page.locator("#data-error")
    expect(card).to_contain_text("begin with the same text", timeout=MINUTE)
    expect(card).to_contain_text("Prompt: What is 0?")
    expect(page.locator("#data-continue")).to_be_hidden()
    card.get_by_role("button", name="Use common prefix").click()
    expect(page.locator("#data-summary")).to_contain_text("3 pairs usable", timeout=MINUTE)
    expect(page.locator("#data-preview")).to_contain_text("A number.")
    # The shape can be picked; its parts follow.
    page.locator("#data-columns button").first.click()
    page.locator("#data-shape input").click()
    page.get_by_role("option", name="Ranked responses").click()
    expect(page.locator("#column-responses input")).to_be_visible()
    expect(page.locator("#column-chosen")).to_be_hidden()
