"""Workers and supervisors killed at random moments: every run still comes to its exact end."""

import random
import time
from contextlib import suppress

import psutil
import pytest

from orpo_qlora import storage
from orpo_qlora.runs import store
from orpo_qlora.runs.process import launch
from orpo_qlora.runs.process import queue as run_queue

pytestmark = pytest.mark.usefixtures("fake_worker")

RUNS, STEPS, KILLS = 4, 30, 24


def programs():
    """Return every worker and supervisor of this home."""
    home = str(storage.home())
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if {launch.WORKER, launch.SUPERVISOR} & set(process.info["cmdline"] or [])
        and any(part.startswith(home) for part in process.info["cmdline"])
    ]


def settle(runs):
    """Do what a person would: resume what broke, look after the queue."""
    for paths in runs:
        if store.read_run(paths).state.status == "interrupted":
            launch.resume_run(paths)
    launch.start_next()


def test_random_kills_lose_nothing_and_leave_nothing(start, wait_for):
    dice = random.Random(7)
    runs = [start(max_steps=STEPS, checkpoint_every=4) for _ in range(RUNS)]
    kills = 0
    while kills < KILLS and any(store.read_run(paths).is_active for paths in runs):
        time.sleep(dice.uniform(0.0, 0.5))
        alive = programs()
        if alive:
            # Half of the time both go, as when a machine dies.
            for process in alive if dice.random() < 0.5 else [dice.choice(alive)]:
                with suppress(psutil.NoSuchProcess):  # it has ended by itself this moment
                    process.kill()
                    kills += 1
        # A worker that has said its last word holds its lock for a moment more.
        at_work = [p for p in runs if store.read_run(p).is_at_work]
        assert len(at_work) <= 1
        settle(runs)

    def all_finished():
        settle(runs)
        return all(store.read_run(paths).state.status == "finished" for paths in runs)

    wait_for(all_finished)
    assert kills >= 10
    whole = store.metrics_of(runs[0]).series("loss")
    for paths in runs:
        lines = storage.read_json_lines(paths.metrics)[0]
        assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
        assert store.metrics_of(paths).series("loss") == whole
        assert len(list(paths.checkpoints.iterdir())) == 2
    wait_for(lambda: not programs())  # a worker says “finished” and then ends
    assert not any(storage.is_locked(paths.lock) for paths in runs)
    assert run_queue.queued_runs() == []
    assert len(list(store.runs_folder().iterdir())) == RUNS
