"""The way from the first visit to a run: without docs, without a mouse, without the network."""

import re

import pytest
import yaml
from pages import chromium, open_page, served_page, watch_errors
from playwright.sync_api import expect

from orpo_qlora import presets
from orpo_qlora.models.devices.machine import this_machine
from orpo_qlora.runs import store

pytestmark = [pytest.mark.browser, pytest.mark.slow]

MINUTE = 60_000
ELSEWHERE = re.compile(r"^(https?|wss?)://(?!127\.0\.0\.1[:/])")
MANY_STOPS = 150
"""More than anybody would press Tab; a control that is further away cannot be reached."""


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(own_home, browser):
    """A page of a machine without a network; whatever goes wrong in it fails the test."""
    with served_page() as address:
        context = browser.new_context(viewport={"width": 1280, "height": 900}, base_url=address)
        asked = []
        context.route(ELSEWHERE, lambda route: (asked.append(route.request.url), route.abort()))
        page = context.new_page()
        errors = watch_errors(page)
        yield page
        # Judged while it is open: what the browser gives up when it closes is nobody's mistake.
        assert errors == []
        assert asked == []
        context.close()


def wait_for_value(page, setting, value):
    expect(page.locator(f"#setting-{setting} input").first).to_have_value(value, timeout=MINUTE)


def choose_preset(page, name, learning_rate):
    page.locator("#train-preset input").click()
    page.get_by_role("option", name=name).click()
    wait_for_value(page, "learning_rate", learning_rate)


def test_a_first_visitor_is_led_and_settings_can_be_kept(page, tmp_path):
    line = page.locator("#next-step")
    open_page(page, "/?tab=train")
    # The address asked for a tab: it is open and stays in the address.
    expect(page.get_by_role("tab", name="Train")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#train-machine")).to_contain_text(this_machine().words)
    expect(page.locator("#train-preset input")).to_have_value(this_machine().preset)
    expect(page).to_have_url(re.compile("tab=train"))
    # By way of another: the machine's own preset may be this very one, already filled in.
    choose_preset(page, "gpu-24gb", "0.0001")
    choose_preset(page, "demo-cpu", "0.0005")

    expect(line).to_contain_text("choose an example")
    line.get_by_role("button", name="Go to Data").click()
    expect(page).to_have_url(re.compile("tab=data"))
    page.locator("#example-hello").click()
    expect(line).to_contain_text("press “Estimate”", timeout=MINUTE)
    expect(page.locator("#preset-fold")).to_be_hidden()
    line.get_by_role("button", name="Go to Train").click()
    expect(page.locator("#train-start")).to_be_enabled(timeout=MINUTE)

    # What differs from the preset is said in a list and beside the setting, and can be undone.
    changed = page.locator("#train-changed")
    expect(changed).not_to_contain_text("Changed")
    page.locator("#setting-epochs input").press_sequentially("5")
    expect(changed).to_contain_text("Epochs: 2 → 25")
    expect(page.locator("#setting-epochs[data-changed]")).to_have_count(1)
    wait_for_value(page, "epochs", "25")
    page.locator("#setting-learning_rate input").fill("7")
    expect(line).to_contain_text("correct the setting", timeout=MINUTE)
    changed.locator('[data-choice="reset:learning_rate"]').click()
    wait_for_value(page, "learning_rate", "0.0005")
    expect(line).to_contain_text("press “Estimate”", timeout=MINUTE)

    page.locator("#preset-fold button").first.click()
    page.get_by_label("Preset name").fill("demo-cpu")
    page.locator("#preset-save").click()
    expect(page.locator("#preset-error [role=alert]")).to_contain_text("built-in preset")
    page.get_by_label("Preset name").fill("mine")
    page.locator("#preset-save").click()
    expect(page.locator("#preset-note")).to_contain_text("Saved as “mine”")
    expect(changed).not_to_contain_text("Changed")
    expect(page.locator("[data-changed]")).to_have_count(0)
    assert presets.read_preset("mine")["epochs"] == 25
    with page.expect_download(timeout=MINUTE) as download:
        page.locator("#preset-export").click()
    assert download.value.suggested_filename == "mine.yaml"
    given = tmp_path / "given.yaml"
    download.value.save_as(given)
    settings = yaml.safe_load(given.read_text(encoding="utf-8"))
    given.write_text(yaml.safe_dump(settings | {"lambda": 0.7}), encoding="utf-8")

    # Another day: one's own preset is still there, and a friend's comes in.
    open_page(page)
    page.locator("#train-preset input").click()
    page.get_by_role("option", name="Your own: mine").click()
    wait_for_value(page, "epochs", "25")
    page.locator("#preset-fold button").first.click()
    with page.expect_file_chooser() as chooser:
        page.locator("#preset-import").click()
    chooser.value.set_files(str(given))
    expect(page.locator("#preset-note")).to_contain_text("Filled in from given.yaml")
    expect(page.locator("#setting-lambda input[type=number]")).to_have_value("0.7")
    given.write_text("lamda: 1\n", encoding="utf-8")
    with page.expect_file_chooser() as chooser:
        page.locator("#preset-import").click()
    chooser.value.set_files(str(given))
    expect(page.locator("#preset-error [role=alert]")).to_contain_text("did you mean lambda?")


def reach(page, element_id):
    """Press Tab until the element, or something in it, is in focus."""
    for _ in range(MANY_STOPS):
        if page.evaluate("id => !!document.activeElement?.closest('#' + id)", element_id):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"Tab never comes to {element_id}")


def test_everything_up_to_a_run_can_be_done_from_the_keyboard(page, tiny_model):
    open_page(page, "/")
    expect(page.locator("#example-hello")).to_be_visible()
    reach(page, "example-hello")
    page.keyboard.press("Enter")
    expect(page.locator("#data-continue")).to_be_visible(timeout=MINUTE)
    reach(page, "data-continue")
    page.keyboard.press("Enter")
    expect(page.locator("#setting-model input")).to_be_visible()
    reach(page, "setting-model")
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type(str(tiny_model))
    page.keyboard.press("Enter")
    reach(page, "group-optimisation")
    page.keyboard.press("Enter")
    expect(page.locator("#setting-max_steps input")).to_be_visible()
    reach(page, "setting-max_steps")
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("1")
    expect(page.locator("#train-changed")).to_contain_text("Stop after steps: 0 → 1")
    expect(page.locator("#train-start")).to_be_enabled(timeout=MINUTE)
    reach(page, "train-start")
    page.keyboard.press("Enter")

    line = page.locator("#next-step")
    expect(page.locator("#run-status")).to_contain_text("finished", timeout=5 * MINUTE)
    expect(line).to_contain_text("chat with", timeout=MINUTE)
    assert len(store.list_runs()) == 1
    expect(page.locator("#run-chat")).to_be_visible()
    reach(page, "run-chat")
    page.keyboard.press("Enter")
    expect(page.locator("#chat-message textarea")).to_be_visible()
    reach(page, "chat-message")
