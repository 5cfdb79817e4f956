"""The main job as a person does it: CSV in, train, watch, reload, chat."""

import csv
import json
import re
import time
import zipfile

import pytest
from pages import ROOT, chromium, open_page, served_page, watch_errors
from playwright.sync_api import expect

from orpo_qlora.data.examples import example_path
from orpo_qlora.runs import store

pytestmark = [pytest.mark.browser, pytest.mark.slow]

MINUTE = 60_000
RUN_MINUTES = 10
PAIRS = 12


@pytest.fixture
def ugly_csv(tmp_path):
    """Real pairs with another column order, a byte-order mark, an empty side and a twin."""
    path = tmp_path / "my pairs.csv"
    with example_path("short_answers").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[:PAIRS]
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Rejected", "note", "CHOSEN", "prompt"])
        for row in rows:
            writer.writerow([row["rejected"], "a\nb", row["chosen"], row["prompt"]])
        writer.writerow(["", "", "an answer", "an empty side?"])
        writer.writerow(["twin", "", "twin", "the same twice?"])
    return path


def points(page, plot):
    """Count the measurements that a plot shows, all curves together."""
    drawn = page.locator(f"#plot-{plot} [data-curves]")
    if not drawn.count():
        return 0
    curves = json.loads(drawn.get_attribute("data-curves"))
    return sum(len(curve["points"]) for curve in curves)


def wait_for_points(page, plot, more_than):
    deadline = time.monotonic() + RUN_MINUTES * 60
    while (now := points(page, plot)) <= more_than:
        assert time.monotonic() < deadline, f"plot {plot} stays at {now} points"
        page.wait_for_timeout(200)
    return now


def choose_preset(page, name):
    page.locator("#train-preset input").click()
    page.get_by_role("option", name=name).click()


@pytest.fixture
def looks_outside(tmp_path, monkeypatch):
    """The file that holds every look at another machine by programs of this test."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests" / "outgoing"))
    monkeypatch.setenv("OUTGOING", str(tmp_path / "outgoing.txt"))
    return tmp_path / "outgoing.txt"


@pytest.mark.usefixtures("cold")  # the page and all that it starts, as on a user's machine
def test_from_a_csv_to_a_chat_with_base_and_tuned(demo_home, ugly_csv, looks_outside):
    with served_page() as address, chromium() as browser:
        # Without a graphics card, what turns and glides would take a core from the training.
        size = {"width": 1280, "height": 900}
        page = browser.new_context(viewport=size, reduced_motion="reduce").new_page()
        errors = watch_errors(page)
        open_page(page, address)

        # Train cannot start yet, and says why.
        page.get_by_role("tab", name="Train").click()
        expect(page.locator("#train-start")).to_be_disabled()
        expect(page.locator("#train-reason")).to_contain_text(re.compile("data", re.IGNORECASE))

        page.get_by_role("tab", name="Data").click()
        page.locator("#data-upload input[type=file]").set_input_files(str(ugly_csv))
        account = page.locator("#data-summary")
        expect(account).to_contain_text(
            f"{PAIRS + 2} rows read, {PAIRS} pairs usable", timeout=MINUTE
        )
        findings = page.locator("#data-findings")
        expect(findings).to_contain_text(f"Row {PAIRS + 1}")
        expect(findings).to_contain_text(f"Row {PAIRS + 2}")
        page.locator("#data-continue").click()

        # By way of another preset: the machine's own may be this very one, already filled in.
        lambda_ = page.locator("#setting-lambda input[type=number]")
        choose_preset(page, "gpu-24gb")
        expect(lambda_).to_have_value("0.1")
        choose_preset(page, "demo-cpu")
        # Typed while the preset is still filling the form: it must stay.
        page.locator("#setting-name input, #setting-name textarea").first.fill("browser <b>run</b>")
        expect(lambda_).to_have_value("0.5")
        page.locator("#group-optimisation button").first.click()
        # Little of everything: what is waited for here is a laptop's processor.
        page.locator("#setting-max_steps input").fill("2")
        page.locator("#setting-pairs_per_step input").fill("2")
        page.locator("#group-logging button").first.click()
        page.locator("#setting-sample_prompts textarea").fill("What is rain?")
        page.locator("#setting-eval_every input").fill("2")
        page.locator("#setting-eval_every input").blur()
        expect(page.locator("#train-start")).to_be_enabled(timeout=MINUTE)
        page.locator("#train-start").dblclick()

        expect(page.locator("#run-status")).to_contain_text("browser <b>run</b>", timeout=MINUTE)
        assert len(store.list_runs()) == 1
        first = wait_for_points(page, "loss", 0)
        wait_for_points(page, "loss", first)

        # The page is disposable: a reload shows the same run, from disk.
        page.reload()
        expect(page.locator("#run-status")).to_contain_text("browser <b>run</b>", timeout=MINUTE)
        bar = page.get_by_role("progressbar")
        expect(bar.first).to_be_visible(timeout=MINUTE)
        status = page.locator("#run-status")
        expect(status).to_contain_text("finished", timeout=RUN_MINUTES * MINUTE)
        run = store.find_run("last")
        assert run.state.status == "finished"
        assert run.has_adapter
        # Two steps and two evaluations, of the loss and its two components.
        for plot, drawn in (("loss", 3 * (2 + 2)), ("accuracy", 2 + 2)):
            assert wait_for_points(page, plot, drawn - 1) == drawn
        page.locator("#run-samples-fold button").first.click()
        expect(page.locator("#run-samples")).to_contain_text("?")

        # The result on held-out pairs, and the export.
        page.locator("#report-evaluate").click()
        result = page.locator("#report-message")
        expect(result).to_contain_text("Tuned prefers the chosen response", timeout=3 * MINUTE)
        page.locator("#run-report-fold button").first.click()
        report = page.locator("#report-view")
        expect(report).to_contain_text("Tuned prefers the chosen response")
        expect(report.locator("figure")).to_have_attribute("aria-label", re.compile("^Margins"))
        page.locator("#run-export-fold button").first.click()
        with page.expect_download(timeout=MINUTE) as taken:
            page.get_by_role("button", name="Download: Adapter (zip)").click()
        assert run.id in taken.value.suggested_filename
        with zipfile.ZipFile(taken.value.path()) as archive:
            assert archive.testzip() is None
            assert any(name.endswith("/adapter_model.safetensors") for name in archive.namelist())

        page.locator("#run-chat").click()
        page.locator("#chat-settings-fold button").first.click()
        page.locator("#chat-max-tokens input[type=number]").fill("10")
        page.locator("#chat-message textarea").fill("Why do cats purr?")
        page.locator("#chat-send").click()
        expect(page.locator("#chat-again")).to_be_enabled(timeout=3 * MINUTE)
        for column in ("base", run.id):
            answer = page.locator(f'.chat-reply[data-column="{column}"] .chat-text')
            expect(answer).to_contain_text(re.compile(r"\w+ \w+ \w+"))
        expect(page.locator("#chat-note")).to_contain_text("tokens")
        assert errors == []
    assert not looks_outside.exists(), looks_outside.read_text()
