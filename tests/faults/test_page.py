"""The life of runs as the page shows and steers it; the worker is a quick one."""

import os
import signal

import psutil
import pytest
from pages import chromium, open_page, served_page, watch_errors
from playwright.sync_api import expect

from orpo_qlora import storage
from orpo_qlora.runs import store
from orpo_qlora.runs.process import launch

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("resting_worker")]

PATIENCE = 120_000


def status(paths):
    return store.read_run(paths).state.status


def open_run(browser, address, paths):
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    errors = watch_errors(page)
    open_page(page, f"{address}/?run={paths.id}")
    expect(page.locator("#run-status")).to_contain_text(
        store.read_run(paths).title, timeout=PATIENCE
    )
    return page, errors


def test_queue_stop_and_resume_from_the_page(start, wait_for):
    first = start(name="first", max_steps=100_000)
    second = start(name="second", max_steps=100_000)
    third = start(name="third", max_steps=100_000)
    with served_page() as address, chromium() as browser:
        page, errors = open_run(browser, address, second)
        expect(page.locator("#run-status")).to_contain_text("queued")
        waiting = page.locator("#run-queue li")
        expect(waiting).to_have_text(["second", "third"])
        page.locator("#run-later").click()
        expect(waiting).to_have_text(["third", "second"], timeout=PATIENCE)
        page.locator("#run-earlier").click()
        expect(waiting).to_have_text(["second", "third"], timeout=PATIENCE)
        page.get_by_role("button", name="Remove from queue").click()
        expect(waiting).to_have_text(["third"], timeout=PATIENCE)
        assert status(second) == "stopped"
        expect(page.locator("#run-resume")).to_have_text("Start again")

        page, more_errors = open_run(browser, address, first)
        page.locator("#run-stop").click()
        expect(page.locator("#run-status")).to_contain_text("stopped", timeout=PATIENCE)
        # The next one starts by itself.
        wait_for(lambda: status(third) == "running")
        step = store.read_run(first).checkpoint_step
        resume = page.locator("#run-resume")
        expect(resume).to_have_text(f"Resume after step {step:,}", timeout=PATIENCE)
        resume.click()
        expect(page.locator("#run-queue li")).to_have_text(["first"], timeout=PATIENCE)
        assert status(first) == "queued"
        launch.stop_run(third)
        # The page follows without a reload.
        expect(page.locator("#run-status")).to_contain_text("running", timeout=PATIENCE)
        assert errors == more_errors == []


def test_two_browsers_and_double_clicks_resume_a_run_once(start, wait_for):
    paths = start(name="mine", max_steps=100_000)
    wait_for(lambda: store.read_run(paths).state.step > 2)
    launch.stop_run(paths)
    wait_for(paths, "stopped")
    with served_page() as address, chromium() as browser:
        pages = [open_run(browser, address, paths)[0] for _ in range(2)]
        for page in pages:
            page.locator("#run-resume").dblclick(no_wait_after=True)
        wait_for(lambda: status(paths) == "running")
        workers = [
            process
            for process in psutil.process_iter(["cmdline"])
            if launch.WORKER in (process.info["cmdline"] or [])
            and str(paths.folder) in process.info["cmdline"]
        ]
        assert len(workers) == 1
        for page in pages:
            expect(page.locator("#run-status")).to_contain_text("running", timeout=PATIENCE)


def test_a_worker_that_does_not_stop_can_be_ended_from_the_page(start, wait_for):
    paths = start(name="frozen", max_steps=100_000)
    wait_for(lambda: store.read_run(paths).checkpoint_step > 0)
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if launch.WORKER in command and str(paths.folder) in command:
            os.kill(process.pid, signal.SIGSTOP)
    with served_page() as address, chromium() as browser:
        page, errors = open_run(browser, address, paths)
        force = page.locator("#run-force")
        page.locator("#run-stop").click()
        expect(page.locator("#run-status")).to_contain_text("stopping", timeout=PATIENCE)
        expect(force).to_be_hidden()
        asked_at = float(paths.stop.read_text())
        storage.write_whole(paths.stop, str(asked_at - launch.GRACE_SECONDS))
        expect(force).to_be_visible(timeout=PATIENCE)
        force.click()
        expect(page.locator("#run-status")).to_contain_text("stopped", timeout=PATIENCE)
        expect(page.locator("#run-resume")).to_contain_text("Resume after step", timeout=PATIENCE)
        assert errors == []


def test_every_tab_says_what_killed_the_worker(start, wait_for):
    paths = start(name="mine", max_steps=100_000)
    wait_for(lambda: store.read_run(paths).checkpoint_step > 0)
    with served_page() as address, chromium() as browser:
        opened = [open_run(browser, address, paths) for _ in range(2)]
        for process in psutil.process_iter(["cmdline"]):
            command = process.info["cmdline"] or []
            if launch.WORKER in command and str(paths.folder) in command:
                process.kill()
        for page, _ in opened:
            expect(page.locator("#run-failure [role=alert]")).to_contain_text(
                "SIGKILL", timeout=PATIENCE
            )
        page = opened[-1][0]
        page.locator("#run-resume").click()
        expect(page.locator("#run-status")).to_contain_text("running", timeout=PATIENCE)
        assert [errors for _, errors in opened if errors] == []
