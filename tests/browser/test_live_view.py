"""A run that is watched while it grows: what a person chose outlives every refresh."""

import re
import time

import pytest
from pages import chromium, open_page, served_page, watch_errors
from playwright.sync_api import expect

from orpo_qlora import storage
from orpo_qlora.config import build_config
from orpo_qlora.data.examples import example_path
from orpo_qlora.data.pairs import load_preferences, split_pairs
from orpo_qlora.runs import store
from orpo_qlora.runs.state import RunState
from orpo_qlora.ui.studio import POLL_SECONDS

pytestmark = [pytest.mark.browser, pytest.mark.slow]

MINUTE = 60_000
TOTAL = 100
AREA = "#plot-loss .chart-area"
SEEN = "Object.defineProperty(document, 'visibilityState', {value: 'STATE', configurable: true})"


class GrowingRun:
    """A run whose lock this process holds, as its worker would, and whose files it writes."""

    def __init__(self):
        dataset = load_preferences(example_path("short_answers"))
        split = split_pairs(dataset.pairs, 0.2, 1)
        self.paths = store.create_run(build_config({"name": "growing"}), split, dataset.report)
        self.lock = storage.FileLock(self.paths.lock)
        assert self.lock.acquire()
        self.lines = storage.JsonLines(self.paths.metrics)
        self.started_at = time.time()

    def grow_to(self, last):
        done = store.stored_state(self.paths).step
        for step in range(done + 1, last + 1):
            loss = 3 - step / TOTAL + step % 3 / 10
            losses = {"loss": loss, "nll_loss": loss - 0.2, "or_loss": 2.0}
            self.lines.append({"step": step, **losses, "rewards/margins": step / TOTAL})
            if step % 20 == 0:
                self.lines.append({"step": step, "eval/loss": 3 - step / TOTAL})
        state = RunState(status="running", phase="training", step=last, total_steps=TOTAL)
        fresh = {"progressed_at": time.monotonic(), "started_at": self.started_at}
        self.paths.log.write_text(f"step {last}")
        store.write_state(self.paths, state.model_copy(update=fresh))

    def end(self):
        self.lock.release()
        self.lines.close()


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORPO_QLORA_HOME", str(tmp_path_factory.mktemp("live") / "home"))
        run = GrowingRun()
        run.grow_to(40)
        with served_page() as address, chromium() as browser:
            page = browser.new_page(viewport={"width": 1280, "height": 1000})
            errors = watch_errors(page)
            open_page(page, f"{address}/?run={run.paths.id}")
            expect(page.locator(AREA)).to_be_visible(timeout=MINUTE)
            yield page, run
            assert errors == []
        run.end()


def refreshed(page, run, step):
    """Let the run grow, and wait until the page shows it."""
    run.grow_to(step)
    expect(page.locator("#run-status")).to_contain_text(f"step {step} of", timeout=MINUTE)


def expect_ends(page, low, high, plots=("loss",)):
    """Wait until charts show these steps."""
    for plot in plots:
        area = page.locator(f"#plot-{plot} .chart-area")
        expect(area).to_have_attribute("data-low", str(low), timeout=MINUTE)
        expect(area).to_have_attribute("data-high", str(high), timeout=MINUTE)


def drag(page, first, last):
    """Drag over the loss from one share of its width to another."""
    page.locator(AREA).scroll_into_view_if_needed()
    box = page.locator(AREA).bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + first * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + last * box["width"], y, steps=5)
    page.mouse.up()


def test_chosen_steps_outlive_every_refresh(watched):
    page, run = watched
    expect_ends(page, 0, TOTAL)
    drag(page, 0.1, 0.3)
    # Every chart shows the same steps.
    expect_ends(page, 10, 30, plots=("loss", "margin"))
    for step in (41, 42):
        refreshed(page, run, step)
        expect_ends(page, 10, 30)
    # Without a mouse: the same field.
    page.locator("#chart-steps :is(input, textarea)").fill("90-95")
    expect(page.locator(AREA)).to_have_text("Nothing was measured in these steps.")
    page.locator(AREA).dblclick()
    expect_ends(page, 0, TOTAL)
    page.locator("#chart-steps :is(input, textarea)").fill("5-20")
    expect_ends(page, 5, 20)
    page.locator(AREA).dblclick()
    expect_ends(page, 0, TOTAL)
    expect(page.locator("#chart-steps :is(input, textarea)")).to_have_value("")


def test_smoothing_and_axes_outlive_every_refresh(watched):
    page, run = watched
    expect(page.locator("#plot-loss .curve-raw")).to_have_count(1)
    page.locator("#chart-smoothing input[type=number]").fill("0")
    page.locator("#chart-smoothing input[type=number]").blur()
    expect(page.locator("#plot-loss .curve-raw")).to_have_count(0, timeout=MINUTE)
    page.locator("#chart-log input").check()
    title = page.locator("#plot-loss .chart-title")
    expect(title).to_contain_text("logarithmic", timeout=MINUTE)
    refreshed(page, run, 50)
    expect(title).to_contain_text("logarithmic")
    expect(page.locator("#plot-loss .curve-raw")).to_have_count(0)


def test_how_a_run_is_seen_outlives_a_reload(watched):
    page, run = watched
    page.locator("#chart-smoothing input[type=number]").fill("0")
    page.locator("#chart-smoothing input[type=number]").blur()
    page.locator("#chart-log input").check()
    page.locator("#chart-steps :is(input, textarea)").fill("5-30")
    for wanted in (r"smoothing=0(&|$)", "log=true", "steps=5-30"):
        expect(page).to_have_url(re.compile(wanted))
    page.reload()
    for step in (51, 52):
        refreshed(page, run, step)
        expect_ends(page, 5, 30)
        expect(page.locator("#plot-loss .chart-title")).to_contain_text("logarithmic")
        expect(page.locator("#plot-loss .curve-raw")).to_have_count(0)
    expect(page.locator("#chart-smoothing input[type=number]")).to_have_value("0")
    expect(page.locator("#chart-log input")).to_be_checked()
    page.locator(AREA).dblclick()
    expect_ends(page, 0, TOTAL)
    expect(page).not_to_have_url(re.compile("steps="))


def places(page):
    """Return where everything stands, once it stands still: one answer changes many parts."""
    look = "() => [...document.querySelectorAll('.plots, #run-samples, [id^=plot-]')]"
    look += ".map((one) => one.getBoundingClientRect().top + scrollY)"
    seen = None
    while seen != (now := page.evaluate(look)):
        seen = now
        page.wait_for_timeout(200)
    return seen


def test_nothing_moves_while_the_run_grows(watched):
    page, run = watched
    refreshed(page, run, 60)
    before = places(page)
    refreshed(page, run, 70)
    assert places(page) == before


def test_the_pointer_shows_values(watched):
    page, _ = watched
    page.locator(AREA).hover()
    tip = page.locator(".chart-tip")
    expect(tip).to_contain_text("step 50")
    expect(tip).to_contain_text("loss 2.7")


def test_an_insight_appears_as_soon_as_there_is_a_trend(watched):
    page, _ = watched
    expect(page.locator("#run-insight")).to_contain_text("healthy")


def test_a_hidden_tab_asks_for_nothing_and_catches_up(watched):
    page, run = watched
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.evaluate(SEEN.replace("STATE", "hidden"))
    # What was asked before is answered, and with it whatever follows from that.
    for _ in range(10):
        asked.clear()
        page.wait_for_timeout(1000 * POLL_SECONDS)
        if not asked:
            break
    run.grow_to(80)
    page.wait_for_timeout(3 * 1000 * POLL_SECONDS)
    assert asked == []
    page.evaluate(SEEN.replace("STATE", "visible"))
    expect(page.locator("#run-status")).to_contain_text("step 80 of", timeout=MINUTE)
    assert asked != []


def test_a_step_is_shown_without_gradio(watched):
    page, run = watched
    page.locator("#run-log-fold button").first.click()
    page.wait_for_load_state("networkidle")
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    refreshed(page, run, 85)
    expect(page.locator("#run-log textarea")).to_have_value("step 85", timeout=MINUTE)
    expect(page.locator("#run-insight")).to_contain_text("healthy")
    assert page.locator("#plot-loss [data-curves]").get_attribute("data-curves").count("[85,") > 0
    # The font of the log may be fetched with its first line.
    assert [url for url in asked if "/watch?" not in url and "/fonts/" not in url] == []


def test_polls_of_an_unchanged_run_are_answered_without_a_body(watched):
    page, run = watched
    refreshed(page, run, 88)
    page.wait_for_load_state("networkidle")
    for _ in range(2):
        with page.expect_response("**/watch?*", timeout=MINUTE) as polled:
            pass
        assert polled.value.status == 304


def test_a_run_that_grows_is_watched_to_its_end(watched):
    page, run = watched
    run.grow_to(TOTAL)
    done = store.stored_state(run.paths).model_copy(update={"status": "finished"})
    store.write_state(run.paths, done)
    run.lock.release()
    expect(page.locator("#run-status")).to_contain_text("finished", timeout=MINUTE)
    page.get_by_role("button", name="Latest values").click()
    row = page.locator("#run-values tr", has_text="NLL")
    expect(row).to_contain_text(str(TOTAL))
