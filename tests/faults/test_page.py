"""The life of runs as the page shows and steers it; the worker is a quick one."""

import os
from pathlib import Path

import pytest
from gloo import processes_of
from pages import chromium, open_page, served_page, watch_errors
from playwright.sync_api import expect

from orpo_qlora import storage
from orpo_qlora.runs import store
from orpo_qlora.runs.process import launch

pytestmark = pytest.mark.browser

PATIENCE = 120_000
SHIM = Path(__file__).parent / "shim"
RESTING = {"FAKE_WORKER": "1", "FAKE_WORKER_REST": "12"}
"""Runs take no step after their twelfth, so that tabs which show them have nothing to draw."""


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """The home of all these tests, and a browser for its page: both take seconds to start."""
    home = tmp_path_factory.mktemp("page") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(storage.HOME_VARIABLE, str(home))
        patch.setenv("PYTHONPATH", os.pathsep.join((str(SHIM), str(SHIM.parents[2]))))
        for name, value in RESTING.items():
            patch.setenv(name, value)
        with served_page() as address, chromium() as browser:
            size = {"width": 1280, "height": 900}
            yield home, browser.new_context(viewport=size, base_url=address)


@pytest.fixture
def context(opened, own_home, monkeypatch):
    """The browser's context, in the home of its page; its tabs are closed after each test."""
    home, context = opened
    monkeypatch.setenv(storage.HOME_VARIABLE, str(home))
    yield context
    for page in context.pages:
        page.close()


def status(paths):
    return store.read_run(paths).state.status


def open_run(context, paths):
    page = context.new_page()
    errors = watch_errors(page)
    open_page(page, f"/?run={paths.id}")
    expect(page.locator("#run-status")).to_contain_text(
        store.read_run(paths).title, timeout=PATIENCE
    )
    return page, errors


def test_queue_stop_and_resume_from_the_page(context, start, wait_for):
    first = start(name="first", max_steps=100_000)
    second = start(name="second", max_steps=100_000)
    third = start(name="third", max_steps=100_000)
    page, errors = open_run(context, second)
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

    page.close()
    page, more_errors = open_run(context, first)
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


def test_two_tabs_and_double_clicks_resume_a_run_once(context, start, wait_for):
    paths = start(name="mine", max_steps=100_000)
    wait_for(lambda: store.read_run(paths).state.step > 2)
    launch.stop_run(paths)
    wait_for(paths, "stopped")
    pages = [open_run(context, paths)[0] for _ in range(2)]
    for page in pages:
        page.locator("#run-resume").dblclick(no_wait_after=True)
    wait_for(lambda: status(paths) == "running")
    assert len(processes_of(launch.WORKER, paths.folder)) == 1
    for page in pages:
        expect(page.locator("#run-status")).to_contain_text("running", timeout=PATIENCE)


def test_a_worker_that_does_not_stop_can_be_ended_from_the_page(context, start, wait_for):
    paths = start(name="frozen", max_steps=100_000)
    wait_for(lambda: store.read_run(paths).checkpoint_step > 0)
    (worker,) = processes_of(launch.WORKER, paths.folder)
    worker.suspend()
    page, errors = open_run(context, paths)
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


def test_every_tab_says_what_killed_the_worker(context, start, wait_for):
    paths = start(name="mine", max_steps=100_000)
    wait_for(lambda: store.read_run(paths).checkpoint_step > 0)
    opened = [open_run(context, paths) for _ in range(2)]
    (worker,) = processes_of(launch.WORKER, paths.folder)
    worker.kill()
    for page, _ in opened:
        expect(page.locator("#run-failure [role=alert]")).to_contain_text(
            "SIGKILL", timeout=PATIENCE
        )
    page = opened[-1][0]
    page.locator("#run-resume").click()
    expect(page.locator("#run-status")).to_contain_text("running", timeout=PATIENCE)
    assert [errors for _, errors in opened if errors] == []
