"""One run at a time, whatever is pressed, killed or closed. The worker here is a quick one."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise

import psutil
import pytest

from orpo_qlora.errors import CheckpointError, InputError, UnknownRun
from orpo_qlora.runs import store
from orpo_qlora.runs.process import launch
from orpo_qlora.runs.process import queue as run_queue

pytestmark = pytest.mark.usefixtures("fake_worker")


def status(paths):
    return store.read_run(paths).state.status


def go(paths):
    """Let a run that waits at a step go on, also when it is resumed."""
    (paths.folder / "go").touch()


def programs(paths, module):
    """Return the processes that run a module for a run."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if module in command and str(paths.folder) in command:
            found.append(process)
    return found


def test_the_next_run_starts_by_itself_in_order(start, wait_for):
    runs = [start(max_steps=5, name=name) for name in "abc"]
    assert [status(run) for run in runs[1:]] == ["queued", "queued"]
    for run in runs:
        wait_for(run, "finished")
    begun = [store.read_run(run).state.started_at for run in runs]
    ended = [store.read_run(run).state.ended_at for run in runs]
    assert begun == sorted(begun)
    assert ended == sorted(ended)


def test_the_queue_continues_after_a_failure_and_after_a_crash(start, wait_for):
    failing = start(name="fail at 2")
    crashing = start(name="crash at 2")
    last = start(max_steps=3)
    wait_for(last, "finished")
    assert status(failing) == "failed"
    assert status(crashing) == "interrupted"
    card = store.read_run(crashing).state.error
    assert "SIGSEGV while training" in card.message
    assert "step 1 of 10" in card.where


def test_the_queue_continues_when_the_supervisor_is_killed_and_a_page_polls(start, wait_for):
    first, second = start(max_steps=20, name="wait at 2"), start(max_steps=3)
    wait_for(lambda: programs(first, launch.WORKER))
    (supervisor,) = programs(first, launch.SUPERVISOR)
    supervisor.kill()
    go(first)
    wait_for(first, "finished")
    assert status(second) == "queued"
    launch.start_next()
    wait_for(second, "finished")


def test_a_killed_worker_is_named_and_can_be_resumed(start, wait_for, killed):
    paths = start(max_steps=40, checkpoint_every=5, name="wait at 12")
    wait_for(lambda: store.read_run(paths).state.step == 12)
    (worker,) = programs(paths, launch.WORKER)
    worker.kill()
    assert "SIGKILL" in killed(paths)
    go(paths)
    assert launch.resume_run(paths) == 10
    wait_for(paths, "finished")
    assert store.read_run(paths).state.error is None
    steps = [step for step, _ in store.metrics_of(paths).series("loss")]
    assert steps == list(range(1, 41))


def test_waiting_runs_change_places_and_leave(start, wait_for):
    first = start(max_steps=60, name="wait at 2")
    a, b, c = (start(max_steps=2, name=name) for name in "abc")
    launch.move_run(c, to=1)
    launch.move_run(a, to=99)
    assert [run.title for run in run_queue.queued_runs()] == ["c", "b", "a"]
    launch.stop_run(b)
    assert status(b) == "stopped"
    assert not b.stop.exists()
    launch.stop_run(first)
    for run in (c, a):
        wait_for(run, "finished")
    assert store.read_run(c).state.started_at <= store.read_run(a).state.started_at
    assert store.read_run(b).state.started_at == 0
    with pytest.raises(InputError, match="does not wait"):
        launch.move_run(b, to=1)


def test_the_same_order_twice_is_one_run(start):
    at_once = threading.Barrier(8)
    made = []

    def press():
        at_once.wait()
        made.append(start(ticket="order-1", max_steps=5))

    threads = [threading.Thread(target=press) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert len(set(made)) == len(store.list_runs()) == 1
    assert start(ticket="order-2", max_steps=5) not in made


LOOKER = """
from orpo_qlora.runs.process import launch
for _ in range(40):
    launch.start_next()
"""


def test_processes_that_poll_at_once_start_each_run_once(start, wait_for):
    runs = [start(max_steps=3, name=str(i)) for i in range(4)]
    lookers = [subprocess.Popen([sys.executable, "-c", LOOKER]) for _ in range(4)]
    for run in runs:
        wait_for(run, "finished")
    assert [looker.wait() for looker in lookers] == [0] * 4
    for run in runs:
        steps = [step for step, _ in store.metrics_of(run).series("loss")]
        assert steps == [1, 2, 3]
    ends = [store.read_run(run).state for run in runs]
    for before, after in pairwise(ends):
        assert before.ended_at <= after.started_at


def test_resumed_twice_it_runs_once(start, wait_for):
    paths = start(max_steps=60, name="wait at 7")
    wait_for(lambda: store.read_run(paths).state.step == 7)
    launch.stop_run(paths)
    wait_for(paths, "stopped")
    go(paths)
    assert launch.resume_run(paths) == 7
    with pytest.raises(InputError, match="cannot be resumed"):
        launch.resume_run(paths)
    wait_for(paths, "finished")
    steps = [step for step, _ in store.metrics_of(paths).series("loss")]
    assert steps == list(range(1, 61))
    with pytest.raises(InputError, match="finished, so it cannot"):
        launch.resume_run(paths)


def test_with_only_damaged_checkpoints_it_restarts_on_request(start, wait_for):
    paths = start(max_steps=40, checkpoint_every=5, name="wait at 7")
    wait_for(lambda: store.read_run(paths).checkpoint_step == 5)
    launch.end_run(paths, grace_seconds=20.0)
    go(paths)
    for checkpoint in paths.checkpoints.iterdir():
        (checkpoint / "value.json").write_text("")
    with pytest.raises(CheckpointError, match="No checkpoint can be used"):
        launch.resume_run(paths)
    assert status(paths) == "stopped"
    assert launch.resume_run(paths, from_start=True) == 0
    wait_for(paths, "finished")
    steps = [step for step, _ in store.metrics_of(paths).series("loss")]
    assert steps == list(range(1, 41))


def test_sigterm_to_everything_stops_the_run_and_leaves_the_queue_waiting(start, wait_for):
    first, second = start(max_steps=500, name="wait at 2"), start(max_steps=3)
    wait_for(lambda: store.read_run(first).state.step >= 2)
    for module in (launch.SUPERVISOR, launch.WORKER):
        for process in programs(first, module):
            os.kill(process.pid, signal.SIGTERM)
    wait_for(first, "stopped")
    wait_for(lambda: not programs(first, launch.SUPERVISOR))
    assert status(second) == "queued"


def test_a_frozen_worker_is_ended_by_force_with_what_it_started(start, wait_for):
    paths = start(max_steps=500, checkpoint_every=5, name="wait at 7")
    wait_for(lambda: store.read_run(paths).checkpoint_step >= 5)
    (worker,) = programs(paths, launch.WORKER)
    os.kill(worker.pid, signal.SIGSTOP)
    ended = launch.end_run(paths, grace_seconds=0.5)
    assert ended.state.status == "stopped"
    assert "Ended by force" in ended.state.notes[-1]
    assert ended.checkpoint_step >= 5
    assert not programs(paths, launch.WORKER)
    assert launch.resume_run(paths) == ended.checkpoint_step
    launch.end_run(paths, grace_seconds=20.0)


def test_a_run_can_be_ended_before_its_supervisor_has_started_the_worker(start, inject, wait_for):
    """The supervisor is frozen as it begins, and let go once the first look found no worker."""
    inject(module=launch.SUPERVISOR, act="freeze", op="open", path="log.txt")
    paths = start(max_steps=100_000, name="deaf")
    inject()

    def let_go():
        wait_for(is_frozen)
        time.sleep(1.0)
        for supervisor in programs(paths, launch.SUPERVISOR):
            os.kill(supervisor.pid, signal.SIGCONT)

    def is_frozen():
        stopped = psutil.STATUS_STOPPED
        return [one for one in programs(paths, launch.SUPERVISOR) if one.status() == stopped]

    thread = threading.Thread(target=let_go)
    thread.start()
    ended = launch.end_run(paths, grace_seconds=0.0)
    thread.join()
    assert ended.state.status == "stopped"
    assert not programs(paths, launch.WORKER)


def test_a_run_does_not_need_the_folder_it_was_started_in(
    start, wait_for, own_home, tmp_path, monkeypatch
):
    """The page works in a folder of its own, which goes with it; torch refuses to load without."""
    (tmp_path / "here" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("ORPO_QLORA_HOME", "../home")
    first, second = start(max_steps=40, model="model"), start(max_steps=100_000)
    assert store.read_run(first).config.model == str(tmp_path / "here" / "model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORPO_QLORA_HOME", str(own_home))
    (tmp_path / "here").rename(tmp_path / "gone")
    wait_for(lambda: store.read_run(second).state.step >= 1)
    assert status(first) == "finished"
    for module in (launch.SUPERVISOR, launch.WORKER):
        (process,) = programs(second, module)
        assert process.cwd() == str(own_home)


def test_a_full_disk_at_a_line_of_metrics_ends_the_run_and_it_can_be_resumed(
    start, inject, wait_for
):
    inject(act="full", op="write", path="metrics.jsonl", n=8)
    paths = start(max_steps=20, checkpoint_every=5)
    wait_for(paths, "failed")
    card = store.read_run(paths).state.error
    assert card.slug == "disk-full"
    assert str(paths.folder) in card.message
    inject()
    assert launch.resume_run(paths) == 5
    wait_for(paths, "finished")
    steps = [step for step, _ in store.metrics_of(paths).series("loss")]
    assert steps == list(range(1, 21))


def test_a_zombie_worker_is_not_at_work(start, wait_for):
    paths = start(max_steps=500)
    wait_for(lambda: store.read_run(paths).state.step >= 2)
    (worker,), (supervisor,) = programs(paths, launch.WORKER), programs(paths, launch.SUPERVISOR)
    os.kill(supervisor.pid, signal.SIGSTOP)
    wait_for(lambda: supervisor.status() == psutil.STATUS_STOPPED)
    worker.kill()
    wait_for(lambda: worker.status() == psutil.STATUS_ZOMBIE)
    assert status(paths) == "interrupted"
    os.kill(supervisor.pid, signal.SIGCONT)
    wait_for(lambda: store.read_run(paths).state.error is not None)
    wait_for(lambda: not psutil.pid_exists(worker.pid))


def test_a_run_folder_removed_under_its_worker_delays_no_other_run(start, wait_for):
    removed, following = start(max_steps=500), start(max_steps=3)
    wait_for(lambda: store.read_run(removed).state.step >= 2)
    while removed.folder.exists():  # the worker may write a file while the folder is emptied
        shutil.rmtree(removed.folder, ignore_errors=True)
    wait_for(following, "finished")
    wait_for(lambda: not programs(removed, launch.WORKER))
    assert [run.id for run in store.list_runs()] == [following.id]
    with pytest.raises(UnknownRun, match=removed.id):
        store.paths_of(removed.id)


def test_files_of_a_killed_writer_are_removed_when_the_run_is_resumed(start, wait_for):
    paths = start(max_steps=500)
    wait_for(lambda: store.read_run(paths).state.step >= 2)
    launch.end_run(paths, grace_seconds=20.0)
    (paths.folder / ".state.json.0123abcd").write_text("{}")
    launch.resume_run(paths)
    assert not list(paths.folder.glob(".state.json.*0123abcd"))


def test_only_the_worker_of_this_very_run_is_ended(start, wait_for):
    """A number noted in a file could belong to somebody else by now; a command line cannot."""
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(900)", "worker"])
    paths = start(max_steps=500, name="wait at 2")
    wait_for(lambda: programs(paths, launch.WORKER))
    launch.end_run(paths, grace_seconds=0.0)
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()
