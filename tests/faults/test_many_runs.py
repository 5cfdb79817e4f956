"""The list of runs, comparisons and the λ sweep in the browser; the worker is a quick one."""

import re

import pytest
from made_runs import leave_adapter, make_run, write_metrics
from pages import chromium, served_page, watch_errors
from playwright.sync_api import expect

from orpo_qlora.runs import store
from orpo_qlora.runs.process import deletion as deletion_of_runs
from orpo_qlora.runs.process import queue as run_queue

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("resting_worker")]

PATIENCE = 120_000
TABS = 6
"""With the first tab one more than the connections of a browser to a server."""


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


def open_page(browser, address, query):
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.set_default_timeout(PATIENCE)
    errors = watch_errors(page)
    page.goto(f"{address}/?{query}")
    return page, errors


def rows(page):
    return page.locator("#history-table tbody tr")


def tick(page, *runs):
    for paths in runs:
        page.locator(f"#history-table input[data-run='{paths.id}']").check()


def test_runs_are_found_compared_renamed_and_deleted(browser, start):
    busy = start(name="at work", max_steps=100_000)
    waiting = start(name="waiting", max_steps=100_000)
    made = [
        make_run(name=f"study <b>{value}</b>", accuracy=accuracy, lora_r=rank, age_seconds=9 - rank)
        for value, accuracy, rank in (("one", 0.6, 4), ("two", 1.0, 8))
    ]
    make_run(name="another", tags=("night",), status="failed")
    leave_adapter(made[0])
    with served_page() as address:
        page, errors = open_page(browser, address, "tab=runs&find=study")
        expect(rows(page)).to_have_count(2, timeout=PATIENCE)
        page.locator("#history-clear").click()
        expect(rows(page)).to_have_count(5, timeout=PATIENCE)
        page.locator("#history-table [data-tag='night']").click()
        expect(rows(page)).to_have_count(1, timeout=PATIENCE)
        assert "tag=night" in page.url
        page.locator("#history-clear").click()
        expect(rows(page)).to_have_count(5, timeout=PATIENCE)

        tick(page, *made)
        page.locator("#history-compare").click()
        expect(page.locator("#compare-curves figure")).to_have_count(8, timeout=PATIENCE)
        differences = page.locator("#compare-differences")
        expect(differences).to_contain_text("LoRA rank")
        expect(differences.locator("tbody tr")).to_have_count(1)
        expect(page.locator("#compare-held-out")).to_contain_text("60 % (23–88 %)")
        page.reload()
        expect(page.locator("#compare-curves figure")).to_have_count(8, timeout=PATIENCE)
        legend = page.locator("#compare-head a")
        expect(legend).to_have_count(2)
        legend.filter(has_text="one").click()
        status = page.locator("#run-status")
        expect(status).to_contain_text("study <b>one</b>", timeout=PATIENCE)

        page.locator("#run-label-fold button").first.click()
        name = page.locator("#run-name textarea, #run-name input").first
        expect(name).to_have_value("study <b>one</b>", timeout=PATIENCE)
        name.fill("the first")
        page.locator("#run-tags textarea, #run-tags input").first.fill("kept, night")
        page.locator("#run-label-save").click()
        expect(status).to_contain_text("the first", timeout=PATIENCE)
        page.locator("#run-export-fold button").first.click()
        with page.expect_download() as saved:
            page.locator("#run-download-csv").click()
        assert saved.value.suggested_filename == "the-first-metrics.csv"
        page.reload()
        expect(status).to_contain_text("the first", timeout=PATIENCE)

        page.locator("#run-delete").click()
        expect(page.locator("#run-delete-text")).to_contain_text("“the first”", timeout=PATIENCE)
        page.locator("#run-delete-keep").click()
        expect(page.locator("#run-delete-text")).to_be_hidden(timeout=PATIENCE)
        assert made[0].folder.is_dir()
        page.locator("#run-delete").click()
        page.locator("#run-delete-confirm").click()
        # Back where it was opened from.
        expect(legend).to_have_count(1, timeout=PATIENCE)
        assert not made[0].folder.exists()
        page.locator("#compare-back").click()
        expect(rows(page)).to_have_count(4, timeout=PATIENCE)
        tick(page, busy, waiting)
        page.locator("#history-delete").click()
        notice = page.locator("#history-delete-text")
        expect(notice).to_contain_text("waits in the queue", timeout=PATIENCE)
        expect(notice).to_contain_text("“at work” is running: stop it first")
        expect(page.locator("#history-delete-confirm")).to_be_disabled()
        assert errors == []

        others = [page.context.new_page() for _ in range(TABS)]
        for other in others:
            other.goto(f"{address}/?run={busy.id}")
        for other in others:
            expect(other.locator("#run-status")).to_contain_text("at work", timeout=PATIENCE)
        page.bring_to_front()
        page.locator("#history-text textarea, #history-text input").first.fill("study")
        expect(rows(page)).to_have_count(1, timeout=PATIENCE)


def test_lambda_is_tried_from_a_run_and_its_settings_taken_again(browser, start, wait_for):
    first = start(name="mine", max_steps=3, **{"lambda": 0.1})
    wait_for(first, "finished")
    write_metrics(first, 0.1, 0.6)
    with served_page() as address:
        page, errors = open_page(browser, address, f"run={first.id}")
        expect(page.locator("#run-status")).to_contain_text("finished", timeout=PATIENCE)
        page.locator("#run-sweep-fold button").first.click()
        values = page.locator("#run-sweep-values textarea, #run-sweep-values input").first
        expect(values).to_have_value("0.05, 0.1, 0.2", timeout=PATIENCE)
        values.fill("0.1 0.5")
        page.locator("#run-sweep-start").click()
        entries = page.locator("#compare-head li")
        expect(entries).to_have_count(2, timeout=PATIENCE)
        expect(entries.filter(has_text="λ = 0.5")).to_contain_text("finished", timeout=PATIENCE)
        second = store.find_run("mine λ = 0.5").paths
        assert run_queue.queued_runs() == []
        assert len(store.list_runs()) == 2
        write_metrics(second, 0.5, 1.0)
        page.reload()
        expect(page.locator("#compare-sweep figure")).to_have_count(3, timeout=PATIENCE)
        expect(page.locator("#compare-sweep")).to_contain_text("λ = 0.5, 100 %")
        entries.filter(has_text="λ = 0.5").locator("a").click()

        page.locator("#run-again").click()
        lambda_ = page.locator("#setting-lambda input[type=number]")
        expect(lambda_).to_have_value("0.5", timeout=PATIENCE)
        expect(page.locator("#train-start")).to_be_enabled(timeout=PATIENCE)
        expect(page.locator("#setting-name textarea, #setting-name input").first).to_have_value(
            "mine λ = 0.5"
        )
        assert re.search(r"data=[0-9a-f]{64}", page.url)
        assert errors == []
    deletion_of_runs.delete_run(second)
    assert [run.id for run in store.list_runs()] == [first.id]
