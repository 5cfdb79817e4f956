"""A run that several processes share: started, killed and resumed as one of a single process."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from importlib.metadata import version

import pytest
from gloo import processes_of
from lesson import lesson
from safetensors.torch import load_file

from orpo_qlora import storage
from orpo_qlora.config import build_config
from orpo_qlora.errors import ConfigError, InputError, OutOfMemory
from orpo_qlora.models.devices import machine
from orpo_qlora.orpo.processes.ranks import Ranks
from orpo_qlora.runs import store
from orpo_qlora.runs.process import ending, launch, worker
from orpo_qlora.runs.process.shared import alike, process_count, torchrun
from orpo_qlora.runs.process.shared import worker as shared_worker
from orpo_qlora.runs.process.shared.rank import choose_gpu
from orpo_qlora.runs.process.worker import Worker
from orpo_qlora.runs.state import ErrorCard

WAIT_SECONDS = 240.0
SETTINGS = {"held_out": 0.25, "pairs_per_step": 4, "max_steps": 8, "checkpoint_every": 1}
SAMPLES = {"sample_prompts": ("hello", "gravity"), "eval_every": 50}
CLOCKS = ("seconds", "peak_memory_bytes", "forwards")


def config_of(model, **settings):
    return build_config({**SETTINGS, **SAMPLES, "model": str(model), **settings})


def logged(paths):
    """Return the numbers of every step, by step and kind."""
    records = [json.loads(line) for line in paths.metrics.read_text().splitlines()]
    return {
        (record["step"], "loss" in record): {
            name: value for name, value in record.items() if not name.endswith(CLOCKS)
        }
        for record in records
    }


def join(count, paths):
    """Take part in a run as a launcher of several machines would start it; return exit codes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    group = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    with paths.log.open("ab") as log:
        started = [
            subprocess.Popen(
                [sys.executable, "-m", launch.RANK, str(paths.folder)],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={
                    **os.environ,
                    **group,
                    **{"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(count)},
                },
            )
            for rank in range(count)
        ]
    return [process.wait(WAIT_SECONDS) for process in started]


def wait_until(condition, paths):
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, store.log_tail(paths)
        time.sleep(0.05)


def kill_one_process(paths):
    """Kill the second process of a run after some steps, and check how all end."""
    wait_until(lambda: store.read_run(paths).state.step >= 2, paths)
    first, second = processes_of(launch.RANK, paths.folder)
    second.send_signal(signal.SIGKILL)
    killed_at = time.monotonic()
    wait_until(lambda: store.read_run(paths).state.error is not None, paths)
    # The supervisor holds the lock until it has recorded the end.
    wait_until(lambda: store.read_run(paths).state.status == "interrupted", paths)
    assert time.monotonic() - killed_at < 30
    run = store.read_run(paths)
    assert "SIGKILL" in run.state.error.message
    assert not first.is_running()
    assert not storage.is_locked(paths.lock)
    assert not paths.stop.exists()
    assert run.checkpoint_step >= 1


def ended_alike(paths, alone):
    """Check a run's records, adapter and answers; return its notes."""
    run = store.read_run(paths)
    assert run.state.status == "finished", store.log_tail(paths)
    expected, found = logged(alone), logged(paths)
    assert found.keys() == expected.keys()
    for key, record in expected.items():
        assert found[key] == pytest.approx(record, rel=1e-3, abs=1e-5), key
    wanted = load_file(alone.adapter / "adapter_model.safetensors")
    weights = load_file(paths.adapter / "adapter_model.safetensors")
    assert max(float((weights[name] - wanted[name]).abs().max()) for name in wanted) < 1e-3
    assert store.samples_of(paths) == store.samples_of(alone)
    assert not list(paths.folder.glob(".*"))
    return " ".join(run.state.notes)


def test_a_killed_process_interrupts_the_run_which_any_launcher_resumes(brief_model):
    alone = launch.start_run(config_of(brief_model), lesson())
    assert launch.wait_for(alone, WAIT_SECONDS).state.status == "finished", store.log_tail(alone)

    paths = launch.start_run(config_of(brief_model, processes=2), lesson())
    kill_one_process(paths)
    assert join(3, paths) == [0, 0, 0], store.log_tail(paths)
    notes = ended_alike(paths, alone)
    assert "shared by 2 processes" in notes
    assert "of 2 processes, the run continues with 3 processes" in notes

    # The same with a base whose layers are split over the processes, resumed with a whole one.
    config = config_of(brief_model, processes=2, shard_base=True)
    paths = launch.start_run(config, lesson())
    kill_one_process(paths)
    launch.resume_run(paths, processes=1)
    launch.wait_for(paths, WAIT_SECONDS)
    notes = ended_alike(paths, alone)
    assert worker.SHARDED in notes
    assert worker.NOT_SHARDED in notes


def test_torchrun_waits_for_a_long_step(monkeypatch):
    def launch_config(arguments):
        config, _, _ = torchrun.torchrun.config_from_args(arguments)
        assert config.shutdown_timeout == 600

    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "")
    monkeypatch.delenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT")
    monkeypatch.setattr(torchrun.torchrun, "run", launch_config)
    assert torchrun._run(["--no-python", "true"]) == 0


def gpus(monkeypatch, count):
    monkeypatch.setattr(process_count, "visible_gpus", lambda: count)


@pytest.mark.parametrize(
    ("processes", "visible", "expected"), [(0, 0, 1), (0, 4, 4), (0, 8, 6), (2, 4, 2), (3, 0, 3)]
)
def test_auto_is_all_gpus_that_have_a_pair(monkeypatch, processes, visible, expected):
    gpus(monkeypatch, visible)
    config = build_config({"processes": processes, "pairs_per_step": 6})
    assert process_count.process_count(config) == expected


def test_more_processes_than_gpus_are_refused_before_a_run_is_created(monkeypatch):
    gpus(monkeypatch, 2)
    config = build_config({"processes": 3})
    with pytest.raises(ConfigError, match="processes is 3, and this machine has 2 visible GPUs"):
        launch.start_run(config, lesson())
    assert store.list_runs() == []
    assert launch.create_stopped(config, lesson()).folder.is_dir()  # for other machines


def test_more_processes_than_a_step_has_pairs_are_refused_on_a_cpu(monkeypatch):
    gpus(monkeypatch, 0)
    config = build_config({"processes": 1000, "pairs_per_step": 6})
    with pytest.raises(ConfigError, match="processes is 1000, and a step has 6 pairs"):
        launch.start_run(config, lesson())
    assert store.list_runs() == []


def test_a_run_is_resumed_by_as_many_processes_as_asked_for(monkeypatch):
    monkeypatch.setattr(launch, "_start_next", lambda: None)
    gpus(monkeypatch, 2)
    paths = launch.create_stopped(build_config({}), lesson())
    with pytest.raises(ConfigError, match="processes is 5"):
        launch.resume_run(paths, processes=5)
    assert store.read_run(paths).state.status == "stopped"
    assert launch.resume_run(paths, processes=2) == 0
    run = store.read_run(paths)
    assert (run.state.status, run.config.processes) == ("queued", 2)


@pytest.mark.parametrize("machines", [1, 2])
def test_a_signal_shows_as_a_stop_only_where_it_can_mean_nothing_else(own_home, machines):
    paths = launch.create_stopped(build_config({}), lesson())
    ranks = Ranks()
    ranks.size = 2 * machines
    ranks.local_size = 2
    worker = Worker(paths, ranks)
    worker._on_signal(signal.SIGTERM, None)
    assert worker.should_stop()
    assert paths.stop.exists() == (machines == 1)


class Facts(Ranks):
    """Two ranks; the second one's facts are given."""

    def __init__(self, other):
        self.other = other

    def gather(self, local):
        return [local(), self.other]


def test_processes_that_would_compute_other_numbers_are_refused_or_noted(monkeypatch):
    here = ("float32", "CPU", ", ".join(f"{name} {version(name)}" for name in alike.PACKAGES))
    config = build_config({})
    assert alike.compare_machines(Facts(here), config) == []
    (note,) = alike.compare_machines(Facts((*here[:2], "torch 9")), config)
    assert note.endswith("torch 9 (process 1).")
    with pytest.raises(ConfigError, match=r"float32 \(process 0\), bfloat16 \(process 1\)"):
        alike.compare_machines(Facts(("bfloat16", *here[1:])), config)
    with pytest.raises(ConfigError, match="fingerprint of the base model's files"):
        alike.refuse_other_files(Facts("0"), {"config.json": "a"})
    with pytest.raises(ConfigError, match="fingerprint of the tokenised pairs"):
        alike.refuse_other_pairs(Facts("0"), [])


def test_a_run_whose_memory_ran_out_says_so_when_it_is_resumed(monkeypatch):
    monkeypatch.setattr(launch, "_start_next", lambda: None)
    paths = launch.create_stopped(build_config({}), lesson())
    for count in (1, 2):
        launch.resume_run(paths)
        state = store.stored_state(paths).moved_to("starting").moved_to("failed")
        error = ErrorCard.of(OutOfMemory("No memory.", hint="Resume."))
        store.write_state(paths, state.model_copy(update={"error": error}))
        launch.resume_run(paths)
        assert store.stored_state(paths).memory_failures == count
        store.write_state(paths, store.stored_state(paths).moved_to("stopped"))


@pytest.mark.parametrize(
    ("environment", "visible"),
    [
        ({"LOCAL_RANK": "2"}, "2"),
        ({"LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": "5,7"}, "7"),
        ({"LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": "GPU-a1,MIG-b2"}, "MIG-b2"),
        ({"LOCAL_RANK": "3", "CUDA_VISIBLE_DEVICES": "4"}, "4"),  # bound by the launcher
        ({"LOCAL_RANK": "1", "HIP_VISIBLE_DEVICES": "0,3"}, "3"),
    ],
)
def test_each_process_sees_the_gpu_of_its_rank(environment, visible):
    choose_gpu(environment)
    name = "HIP" if "HIP_VISIBLE_DEVICES" in environment else "CUDA"
    assert environment[f"{name}_VISIBLE_DEVICES"] == visible


@pytest.mark.parametrize(
    ("chosen", "expected"), [(None, 2), ("1", 1), ("0,1", 2), ("", 0), ("0,7", 1)]
)
def test_visible_gpus_are_counted(monkeypatch, chosen, expected):
    answer = "0, GPU-aaaa, NVIDIA L4, 23034, 1\n1, GPU-bbbb, NVIDIA L4, 23034, 1\n"
    monkeypatch.setattr(machine.gpus, "ask_driver", lambda question=(): "" if question else answer)
    monkeypatch.setattr(machine, "_torch_version", lambda: "2.13.0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert machine.visible_gpus.__wrapped__() == expected


def test_the_error_of_another_rank_is_that_of_the_run(own_home):
    paths = launch.create_stopped(build_config({}), lesson())
    state = store.stored_state(paths).moved_to("queued").moved_to("starting")
    store.write_state(paths, state)
    ending.write_rank_error(paths, 2, OutOfMemory("No memory.", hint="Less.", where="step 3"))
    ending.record_end(paths, 21)
    state = store.stored_state(paths)
    assert (state.status, state.error.message) == ("failed", "No memory.")
    assert state.error.where == "step 3, process 2"
    assert not list(paths.folder.glob(".error*"))


@pytest.mark.parametrize(("status", "words"), [("running", "at work"), ("finished", "finished")])
def test_a_run_that_cannot_be_taken_is_left_as_it_is(own_home, monkeypatch, status, words):
    monkeypatch.setattr(shared_worker, "LOCK_SECONDS", 0.1)
    paths = launch.create_stopped(build_config({}), lesson())
    before = store.stored_state(paths).model_copy(update={"status": status, "step": 3})
    store.write_state(paths, before)
    paths.reserve.write_bytes(b"0")
    other = storage.FileLock(paths.lock)
    if status == "running":
        assert other.acquire(1.0)
    worker = shared_worker.SharedWorker(paths, 0, None)
    with pytest.raises(InputError, match=words) as raised:
        worker.run()
    worker.fail(raised.value)
    assert store.stored_state(paths) == before
    assert paths.reserve.is_file()
    if status == "running":
        other.release()
    assert not storage.is_locked(paths.lock)
