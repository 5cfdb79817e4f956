"""The Chat tab in the real browser, with a real chat process and tiny real models."""

import re

import pytest
from pages import chromium, open_page, served_page, watch_errors
from playwright.sync_api import expect
from tiny import make_brief_model

from orpo_qlora.chat import client, votes

pytestmark = pytest.mark.browser

MINUTE = 60_000
MARKUP = "<b>Why</b> ${1+1} {{value}} <img src=x onerror=alert(1)>?"


@pytest.fixture(scope="module")
def brief_model(tmp_path_factory):
    return make_brief_model(tmp_path_factory.mktemp("brief") / "model")


@pytest.fixture(scope="module")
def talk(home_of_the_module, make_run, brief_model):
    """The Chat tab of a page with three runs of one base and one of another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORPO_QLORA_HOME", str(home_of_the_module))
        make_run(name="endless")
        for seed in range(3):
            make_run(brief_model, seed=seed, name=f"run {seed}")
        with served_page() as address, chromium() as browser:
            context = browser.new_context(viewport={"width": 1280, "height": 900})
            context.grant_permissions(["clipboard-read", "clipboard-write"])
            page = context.new_page()
            errors = watch_errors(page)
            open_page(page, f"{address}/?tab=chat")
            expect(page.locator("#chat-newest .card-empty")).to_be_visible(timeout=MINUTE)
            page.locator("#chat-settings-fold button").first.click()
            page.locator("#chat-temperature input[type=number]").fill("1")
            page.locator("#chat-max-tokens input[type=number]").fill("1024")
            yield page
            assert errors == []


@pytest.fixture
def page(talk, shared_home):
    """The page with an empty conversation, ready for a question."""
    if talk.locator(".chat-exchange").count():
        talk.locator("#chat-clear").click()
    expect(talk.locator(".chat-exchange")).to_have_count(0)
    talk.locator("#chat-blind input").uncheck()
    return talk


def pick(page, *titles):
    """Choose the models."""
    box, picked = page.locator("#chat-run input"), page.locator("#chat-run .token")
    for left in reversed(range(picked.count())):
        box.press("Backspace")
        expect(picked).to_have_count(left)
    for place, title in enumerate(titles, start=1):
        # The list may stay open after a choice, and then covers the box.
        if box.get_attribute("aria-expanded") != "true":
            box.click()
        page.get_by_role("option", name=title).click()
        expect(picked).to_have_count(place)
    box.press("Escape")


def ask(page, text):
    page.locator("#chat-message textarea").fill(text)
    page.locator("#chat-message textarea").press("Enter")


def answers(page, message, seed=0):
    """Wait for the answers to a message with a seed, and return them."""
    newest = page.locator("#chat-newest .chat-exchange[aria-busy=false]")
    expect(newest.locator(".chat-asked-text")).to_have_text(message, timeout=MINUTE)
    expect(newest.locator(".chat-proof").first).to_contain_text(f"seed {seed}", timeout=MINUTE)
    return newest.locator(".chat-text").all_text_contents()


def test_a_conversation_can_be_changed_and_outlives_a_reload(page):
    pick(page, "Base model", "run 1", "run 2")
    ask(page, MARKUP)
    first = answers(page, MARKUP)
    assert len(set(first)) == 3
    expect(page.locator("#chat-newest h3")).to_have_text(["Base model", "run 1", "run 2"])
    expect(page.locator("#chat-message textarea")).to_be_focused()
    proofs = page.locator("#chat-newest .chat-proof").all_inner_texts()
    assert proofs[0] == "adapter off · seed 0"
    assert proofs[1].startswith("adapter on · ")
    assert len(set(proofs)) == 3

    page.locator("#chat-again").click()
    second = answers(page, MARKUP, seed=1)
    assert second != first
    copy = page.locator("#chat-newest .chat-reply").nth(1).locator("[data-copy]")
    copy.click()
    expect(copy).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == second[1]

    page.locator("#chat-message textarea").fill("line one")
    page.locator("#chat-message textarea").press("Shift+Enter")
    page.locator("#chat-message textarea").press_sequentially("and two")
    page.locator("#chat-send").click()
    third = answers(page, "line one\nand two")
    expect(page.locator("#chat-past .chat-exchange")).to_have_count(1)
    open_page(page)
    expect(page.locator("#chat-newest .chat-text")).to_have_text(third, timeout=MINUTE)
    expect(page.locator("#chat-past .chat-text")).to_have_count(len(second))
    assert page.locator("#chat-past .chat-text").all_text_contents() == second
    expect(page.locator("#chat-run .token")).to_have_count(3)

    edit(page)
    page.keyboard.press("Escape")
    expect(page.locator("#chat-edit-row")).to_be_hidden()
    expect(page.locator("#chat-message textarea")).to_be_empty()
    edit(page)
    ask(page, "Something else")
    answers(page, "Something else")
    expect(page.locator(".chat-exchange")).to_have_count(1)


def edit(page):
    """Begin to change the first message."""
    page.locator("#chat-past [data-choice]").click()
    expect(page.locator("#chat-edit-row")).to_be_visible()
    expect(page.locator("#chat-message textarea")).to_have_value(MARKUP)


def test_escape_stops_and_keeps_the_text(page):
    pick(page, "Base model", "endless", "run 1")
    ask(page, "Go on.")
    expect(page.locator("#chat-error")).to_contain_text("only runs of one base")
    expect(page.locator("#chat-message textarea")).to_have_value("Go on.")
    pick(page, "Base model", "endless")
    page.locator("#chat-blind input").check()
    ask(page, "Go on.")
    expect(page.locator("#chat-vote-a")).to_be_disabled()
    expect(page.locator("#chat-note")).to_contain_text("tokens/s", timeout=MINUTE)
    for text in (page.locator("#chat-newest .chat-text").nth(place) for place in (0, 1)):
        expect(text).to_have_text(re.compile(r"\S[\s\S]{5}"), timeout=MINUTE)
    expect(page.locator("#chat-error")).to_be_empty()
    page.keyboard.press("Escape")
    assert all(len(text) > 3 for text in answers(page, "Go on."))
    expect(page.locator("#chat-newest")).to_contain_text("Stopped.")
    expect(page.locator("#chat-vote-a")).to_be_disabled()


def test_a_blind_vote_reveals_names_is_counted_and_becomes_data(page):
    pick(page, "Base model", "run 2")
    page.locator("#chat-blind input").check()
    ask(page, "Which is better?")
    expect(page.locator("#chat-vote-b")).to_be_enabled(timeout=MINUTE)
    expect(page.locator("#chat-send")).to_be_disabled()
    shown = page.locator("#chat-newest").inner_html()
    assert "run 2" not in shown
    assert "Base" not in shown
    assert "adapter" not in shown
    right = answers(page, "Which is better?")[1]
    page.locator("#chat-vote-b").click()
    names = page.locator("#chat-newest h3")
    expect(names.nth(1)).to_contain_text("your choice")
    titles = [name.split(": ")[1].split(" your")[0] for name in names.all_inner_texts()]
    assert sorted(titles) == ["Base model", "run 2"]
    (kept,) = votes.read_votes()
    assert kept.vote == "b"
    assert kept.b.title == titles[1]
    assert kept.b.text == right
    won = "1 of 1" if titles[1] == "run 2" else "0 of 1"
    expect(page.locator("#chat-scores")).to_contain_text(f"against the base model: won {won}")
    expect(page.locator("#chat-scores")).to_contain_text("1 vote can be trained on")

    page.locator("#chat-use-votes").click()
    account = page.locator("#data-summary")
    expect(account).to_contain_text("votes.jsonl", timeout=MINUTE)
    expect(account).to_contain_text("1 row read, 1 pair usable")
    expect(page.locator("#data-preview")).to_contain_text("Which is better?")
    page.get_by_role("tab", name="Chat").click()
    expect(page.locator("#chat-newest h3").nth(1)).to_contain_text("your choice")
    assert client.status() is not None
