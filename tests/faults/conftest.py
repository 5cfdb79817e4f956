"""Programs that fail on demand, and a worker quick enough to fail often."""

import json
import time

import pytest
from lesson import lesson

from orpo_qlora.config import build_config
from orpo_qlora.runs import store
from orpo_qlora.runs.process import launch
from orpo_qlora.runs.process import queue as run_queue

WAIT_SECONDS = 120.0


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
def resting_worker(fake_worker, monkeypatch):
    """Runs take no step after their twelfth, so that pages which show them have nothing to draw."""
    monkeypatch.setenv("FAKE_WORKER_REST", "12")


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
