"""Programs that tests fork are what a cold start gives; see `forkserver`."""

import os
import time

import psutil
from lesson import lesson

from orpo_qlora import storage
from orpo_qlora.config import build_config
from orpo_qlora.runs import store
from orpo_qlora.runs.process import launch

SECONDS = 240.0
TIMES = {"seconds", "eval/seconds", "peak_memory_bytes", "eval/peak_memory_bytes", "time"}


def start(model, **settings):
    values = {"model": str(model), "held_out": 0.25} | settings
    return launch.start_run(build_config(values), lesson())


def measured(paths):
    run = launch.wait_for(paths, SECONDS)
    assert run.state.status == "finished", store.log_tail(paths)
    records = storage.read_json_lines(paths.metrics)[0]
    return [{n: v for n, v in record.items() if n not in TIMES} for record in records]


def program(paths, module):
    """Return the process that runs a module for a run, or None."""
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if command[1:3] == ["-m", module] and command[3] == str(paths.folder):
            return process
    return None


def has_torch(process):
    return any("libtorch" in part.path for part in process.memory_maps())


def wait_for(value, patience_seconds=SECONDS):
    deadline = time.monotonic() + patience_seconds
    while not value():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return value()


def test_a_forked_worker_measures_what_one_started_cold_measures(brief_model, request):
    """The one cold start here proves that the imports work outside the tests too."""
    forked = measured(start(brief_model, max_steps=3))
    request.getfixturevalue("cold")
    paths = start(brief_model, max_steps=3)
    assert not has_torch(wait_for(lambda: program(paths, launch.SUPERVISOR)))
    assert measured(paths) == forked
    assert len(forked) >= 3


def test_a_forked_worker_is_a_process_of_its_own_and_dies_as_one(brief_model):
    paths = start(brief_model, max_steps=5000)
    supervisor = wait_for(lambda: program(paths, launch.SUPERVISOR))
    worker = wait_for(lambda: program(paths, launch.WORKER))
    assert has_torch(supervisor), "it was started cold"
    assert supervisor.ppid() == os.getpid()
    assert worker.ppid() == supervisor.pid
    assert {os.getsid(one.pid) for one in (worker, supervisor)} == {worker.pid, supervisor.pid}
    assert worker.cwd() == str(storage.home())
    worker.kill()
    run = launch.wait_for(paths, SECONDS)
    wait_for(lambda: store.read_run(paths).state.error)
    assert "SIGKILL" in store.read_run(paths).state.error.message
    assert run.state.status == "interrupted"
    assert not storage.is_locked(paths.lock)
