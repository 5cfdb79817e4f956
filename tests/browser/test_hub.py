"""A data set of a loopback Hub in the Data tab: id typed, split chosen, findings shown."""

import json
import os

import pytest
from hub_fetches import hub_environment
from loopback_hub import Repo, loopback_hub
from pages import chromium, open_page, served_page, watched_tab
from playwright.sync_api import expect

from orpo_qlora import storage

pytestmark = [pytest.mark.browser, pytest.mark.slow]

ROWS = [
    {"prompt": f"Why {i}?", "chosen": f"Because of {i}.", "rejected": "No idea."} for i in range(8)
]
RECIPE = "argilla/ultrafeedback-binarized-preferences-cleaned"
"""Data of the recipe mistral-orpo-beta."""
CARD = (
    "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train_prefs\n"
    "    path: a.jsonl\n  - split: test_prefs\n    path: b.jsonl\n---\n"
)
SIZE = {"width": 1280, "height": 900}


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


REPOS = {
    "acme/pairs": Repo(
        {
            "README.md": CARD.encode(),
            "a.jsonl": lines([*ROWS, ROWS[0]]),
            "b.jsonl": lines(ROWS[:2]),
        }
    ),
    RECIPE: Repo({"train.jsonl": lines(ROWS)}),
    "acme/slow": Repo({"train.jsonl": lines(ROWS * 4000)}, pause=0.25),
}


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    """A browser's context for a page with a loopback Hub."""
    home = tmp_path_factory.mktemp("hub-page")
    with pytest.MonkeyPatch.context() as patch, loopback_hub(REPOS) as server:
        for name in [name for name in os.environ if name.startswith("HF_")]:
            patch.delenv(name)
        for name, value in hub_environment(server.address, home / "caches").items():
            patch.setenv(name, value)
        patch.setenv(storage.HOME_VARIABLE, str(home / "home"))
        with served_page() as address, chromium() as browser:
            yield browser.new_context(viewport=SIZE, base_url=address)


@pytest.fixture
def page(context):
    """The page as it opens; whatever goes wrong in it fails the test."""
    with watched_tab(context) as page:
        open_page(page, "/")
        page.get_by_role("button", name="From the Hugging Face Hub").click()
        yield page


def type_id(page, name):
    page.locator("#hub-id textarea, #hub-id input").fill(name)
    page.locator("#hub-fetch").click()


def test_an_id_becomes_pairs_and_what_cannot_be_one_starts_nothing(page):
    view = page.locator("#hub-view")
    type_id(page, "../../etc/passwd")
    expect(view).to_contain_text("is not the id of a data set on the Hub")
    type_id(page, "acme/pairs")
    expect(view).to_contain_text("2 splits, none of them “train”")
    page.locator("#hub-split input").click()
    page.locator("#hub-split [role=option]", has_text="train_prefs").click()
    page.locator("#hub-fetch").click()
    summary = page.locator("#data-summary")
    expect(summary).to_contain_text("acme/pairs (train_prefs).jsonl")
    expect(summary).to_contain_text("9 rows read, 9 pairs usable")
    expect(summary).to_contain_text(f"revision {REPOS['acme/pairs'].sha}")
    expect(page.locator('[data-finding="duplicate"]')).to_be_visible()
    expect(view).to_contain_text("9 rows, 1 kB")
    expect(page.locator("#data-continue")).to_be_visible()


def test_a_slow_fetch_survives_a_reload_and_is_cancelled(page):
    type_id(page, "acme/slow")
    view = page.locator("#hub-view")
    expect(view).to_contain_text("acme/slow: ")
    expect(page.locator("#hub-cancel")).to_be_visible()
    open_page(page)
    expect(view).to_contain_text("acme/slow: ")
    page.locator("#hub-cancel").click()
    expect(view).to_contain_text("The download was cancelled; nothing was kept.")
    expect(page.locator("#hub-cancel")).to_be_hidden()
    expect(page.locator("#data-continue")).to_be_hidden()


def test_a_recipe_fills_in_its_settings_and_says_what_it_needs_before_it_fetches(page):
    page.get_by_role("tab", name="Train").click()
    page.locator("#train-preset input").click()
    page.locator("#train-preset [role=option]", has_text="mistral-orpo-beta").click()
    card = page.locator("#train-recipe")
    expect(card).to_contain_text("Mistral-ORPO-β")
    expect(card).to_contain_text("7.24 billion parameters: a download of about 14 GB")
    expect(page.locator("#setting-model input")).to_have_value("mistralai/Mistral-7B-v0.1")
    card.locator("button").click()
    expect(card).to_contain_text("is being fetched: see the Data tab")
    page.get_by_role("tab", name="Data").click()
    expect(page.locator("#hub-id textarea, #hub-id input")).to_have_value(RECIPE)
    expect(page.locator("#data-summary")).to_contain_text(f"{RECIPE} (train).jsonl")
    page.get_by_role("tab", name="Train").click()
    expect(page.locator("#train-data")).to_contain_text(f"Training data: {RECIPE} (train).jsonl")
    expect(page.locator("#train-start")).to_be_enabled()
