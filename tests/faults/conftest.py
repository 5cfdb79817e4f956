"""Programs that fail on demand, and a worker quick enough to fail often."""

import json
import os
import time
from pathlib import Path

import pytest
from lesson import lesson

from orpo_qlora.config import build_config
from orpo_qlora.runs import store
from orpo_qlora.runs.process import launch
from orpo_qlora.runs.process import queue as run_queue

SHIM = Path(__file__).parent / "shim"
ROOT = Path(__file__).parents[2]
WAIT_SECONDS = 120.0


@pytest.fixture
def shim(monkeypatch):
    """Programs started from now on look for faults."""
    paths = [str(SHIM), str(ROOT), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if path))


@pytest.fixture
def inject(shim, monkeypatch):
    """Arm the next program with a fault; call without arguments to disarm."""

    def arm(**fault):
        if fault:
            monkeypatch.setenv("FAULT", json.dumps({"module": launch.WORKER} | fault))
        else:
            monkeypatch.delenv("FAULT", raising=False)

    return arm


@pytest.fixture
def fake_worker(shim, monkeypatch):
    """Runs take 20 ms a step and no model."""
    monkeypatch.setenv("FAKE_WORKER", "1")


@pytest.fixture
def start():
    """Queue a run; whatever is still at work at the end of the test is ended."""

    def begin(ticket="", **settings):
        base = {"max_steps": 10, "held_out": 0.25, "pairs_per_step": 4}
        return launch.start_run(build_config(base | settings), lesson(), ticket)

    yield begin
    for run in [*run_queue.queued_runs(), store.active_run()]:
        if run is not None:
            launch.end_run(run.paths, 0.0)


@pytest.fixture
def killed(wait_for):
    """Wait until a run whose worker was killed says by what; return what it says."""

    def wait(paths):
        # In one look: the supervisor writes the cause, and then lets go of the run's lock.
        def says():
            state = store.read_run(paths).state
            return state.status == "interrupted" and state.error is not None

        wait_for(says)
        return store.read_run(paths).state.error.message

    return wait


@pytest.fixture
def wait_for():
    """Wait until a run has a status, or a condition holds."""

    def wait(what, status=None):
        deadline = time.monotonic() + WAIT_SECONDS
        while not (what() if status is None else store.read_run(what).state.status == status):
            details = "" if status is None else f": {store.read_run(what).state}"
            details += "" if status is None else store.log_tail(what)
            assert time.monotonic() < deadline, f"waited too long{details}"
            time.sleep(0.02)

    return wait
