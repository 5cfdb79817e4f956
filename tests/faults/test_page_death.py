"""Pages that end in every way while a run trains, asked over HTTP; the worker is a quick one."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
from serving import END_SECONDS, ROOT, start_page
from visitor import Visitor

from orpo_qlora.runs import store

pytestmark = pytest.mark.usefixtures("fake_worker")


@pytest.fixture
def open_page(own_home):
    """Open pages as from a terminal of their own; what is still open at the end is ended."""
    opened = []

    def begin(port=0):
        page = subprocess.Popen(
            [sys.executable, str(ROOT / "app.py"), "--port", str(port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "ORPO_QLORA_HOME": str(own_home)},
            start_new_session=True,
        )
        opened.append(page)
        found = next(
            filter(None, (re.search(r"http://[\w.]+:(\d+)", line) for line in page.stdout))
        )
        return page, found[0], int(found[1])

    yield begin
    for page in opened:
        page.kill()
        page.communicate()


def shown(visitor, run_id):
    visitor.put("address", json.dumps({"run": run_id}))
    visitor.load()
    assert visitor.value("run-picker") == run_id
    visitor.fire("run-picker", "change")
    return visitor.value("run-status")


def test_a_run_outlives_ctrl_c_and_a_kill_of_its_page(open_page, start, wait_for):
    """The tab stays open all the time, as a browser's does: the same visitor goes on."""
    page, address, port = open_page()
    tab = Visitor(address)
    tab.load()
    tab.fire("example-hello", "click")
    tab.put("setting-max_steps", 100_000)
    tab.fire("train-start", "click")
    (run,) = store.list_runs()
    wait_for(lambda: store.read_run(run.paths).state.step > 2)

    os.killpg(page.pid, signal.SIGINT)
    said, _ = page.communicate(timeout=END_SECONDS)
    assert page.returncode == 0
    assert "Runs in progress continue" in said
    step = store.read_run(run.paths).state.step
    wait_for(lambda: store.read_run(run.paths).state.step > step)

    page, _, _ = open_page(port)
    tab.tick()
    assert ">running<" in tab.value("run-status")

    page.kill()
    page.wait()
    page, _, _ = open_page(port)
    assert ">running<" in shown(tab, run.id)

    # Another page on the same home shows and steers the same run.
    _, other_address, _ = open_page()
    other = Visitor(other_address)
    assert ">running<" in shown(other, run.id)
    other.fire("run-stop", "click")
    wait_for(run.paths, "stopped")
    tab.tick()
    assert ">stopped<" in tab.value("run-status")
    other.fire("run-resume", "click")
    wait_for(run.paths, "running")
    assert ">running<" in shown(tab, run.id)
    assert len(store.list_runs()) == 1
    for visitor in (tab, other):
        visitor.close()


def test_a_home_that_cannot_be_written_ends_the_page_with_its_path(tmp_path):
    (tmp_path / "file").write_text("")
    page = start_page(tmp_path / "file" / "home", "--port", "0")
    said, _ = page.communicate(timeout=END_SECONDS)
    assert page.returncode == 2
    assert str(tmp_path / "file" / "home") in said
    assert "Traceback" not in said
