"""The real worker on a tiny real model, broken where it hurts and resumed."""

import json
import shutil
import signal
import time

import psutil
import pytest
from lesson import lesson
from safetensors.torch import load_file
from tiny import make_brief_model

from orpo_qlora import storage
from orpo_qlora.config import build_config
from orpo_qlora.errors import CheckpointError
from orpo_qlora.runs import store
from orpo_qlora.runs.process import launch
from orpo_qlora.runs.process.watch import stalled

UNEQUAL = {"seconds", "eval/seconds", "peak_memory_bytes", "eval/peak_memory_bytes"}
WAIT_SECONDS = 240.0
LEARNING = {
    **{"max_steps": 6, "checkpoint_every": 2, "eval_every": 3, "lora_dropout": 0.2},
    "sample_prompts": ["What is gravity?", "Why do people say hello?"],
}


def logged(paths):
    """Return everything that must be the same again."""
    records = [json.loads(line) for line in paths.metrics.read_text().splitlines()]
    kept = [{n: v for n, v in record.items() if n not in UNEQUAL} for record in records]
    # The base, step 0, is recorded with the first evaluation and stays where it was written.
    return sorted(kept, key=lambda record: record["step"]), store.samples_of(paths)


def adapter(paths):
    return load_file(paths.adapter / "adapter_model.safetensors")


def is_same(left, right):
    return left.keys() == right.keys() and all(left[n].equal(right[n]) for n in left)


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    """A tiny model with short sample answers: a long one takes as long as all steps."""
    return make_brief_model(tmp_path_factory.mktemp("brief") / "model")


@pytest.fixture(scope="module")
def whole(tiny_model, tmp_path_factory):
    """A run without a fault, in a home of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(storage.HOME_VARIABLE, str(tmp_path_factory.mktemp("whole") / "home"))
        settings = {"model": str(tiny_model), "held_out": 0.25, "pairs_per_step": 4}
        paths = launch.start_run(build_config(settings | LEARNING), lesson())
        run = launch.wait_for(paths, WAIT_SECONDS)
    assert run.state.status == "finished", store.log_tail(paths)
    return paths


def test_killed_again_and_again_it_ends_as_if_nothing_had_happened(
    tiny_model, whole, start, inject, wait_for, killed
):
    """Bit for bit: adapter, metrics of every step, sample answers."""
    faults = [
        {"act": "kill", "op": "rename", "path": ".npz"},  # the tokens, as they are kept
        {"act": "half", "op": "write", "path": "metrics.jsonl", "n": 2},  # the line of step 2
        {"act": "half", "op": "write", "path": "samples.jsonl", "n": 2},  # base, second answer
        {"act": "kill", "op": "rename", "path": "checkpoints/step-4"},
        {"act": "kill", "op": "rename", "path": "/adapter"},
    ]
    expected_steps = [0, 0, 2, 2, 6]
    inject(**faults[0])
    paths = start(model=str(tiny_model), **LEARNING)
    for fault, expected in zip([*faults[1:], {}], expected_steps, strict=True):
        assert "SIGKILL" in killed(paths)
        inject(**fault)
        assert launch.resume_run(paths) == expected
    wait_for(paths, "finished")
    assert logged(paths) == logged(whole)
    assert is_same(adapter(paths), adapter(whole))
    assert not list(paths.checkpoints.glob(".draft-*"))
    assert not list(storage.home().glob("**/.*"))


def test_a_full_disk_keeps_the_old_checkpoint_and_another_model_is_refused(
    tiny_model, tmp_path, start, inject, wait_for
):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    inject(act="small-files", op="mkdir", path="checkpoints/.draft-", n=2)
    paths = start(model=str(model), **LEARNING)
    wait_for(paths, "failed")
    card = store.read_run(paths).state.error
    assert card.slug == "disk-full"
    assert "step-4" in card.message
    assert store.read_run(paths).checkpoint_step == 2
    assert [path.name for path in paths.checkpoints.iterdir()] == ["step-2"]

    inject()
    tokenizer = model / "tokenizer.json"
    original = tokenizer.read_text()
    tokenizer.write_text(original + "\n")
    launch.resume_run(paths)
    wait_for(paths, "failed")
    card = store.read_run(paths).state.error
    assert card.slug == "checkpoint"
    assert "base model: tokenizer.json has changed" in card.message

    tokenizer.write_text(original)
    settings = paths.config.read_text()
    paths.config.write_text(settings.replace("seed: 42", "seed: 43"))
    paths.train.write_text(paths.train.read_text().replace("gravity", "levity"))
    with pytest.raises(CheckpointError) as caught:
        launch.resume_run(paths)
    assert "seed was 42 and is 43" in caught.value.message
    assert "data/train.jsonl has changed" in caught.value.message


def test_memory_that_runs_out_where_nothing_smaller_can_be_tried_is_a_card(
    tiny_model, whole, start, inject, wait_for
):
    """Three times in one run, which then ends as if nothing had happened."""
    faults = [
        ({"op": "rename", "path": ".npz"}, "tokenizing the pairs", 0),
        ({"op": "write", "path": "metrics.jsonl", "n": 2}, "training", 1),
        ({"op": "mkdir", "path": "checkpoints/.draft-", "n": 2}, "saving a checkpoint", 4),
    ]
    paths = None
    for fault, phase, step in faults:
        inject(act="memory", **fault)
        if paths is None:
            paths = start(model=str(tiny_model), **LEARNING)
        else:
            launch.resume_run(paths)
        wait_for(paths, "failed")
        card = store.read_run(paths).state.error
        shown = (card.slug, card.message, card.where)
        assert shown == ("out-of-memory", f"Memory ran out while {phase}.", f"step {step}")
        assert "smaller model" in card.hint

    inject()
    launch.resume_run(paths)
    wait_for(paths, "finished")
    assert logged(paths) == logged(whole)
    assert is_same(adapter(paths), adapter(whole))


def test_a_native_crash_is_named_and_the_next_run_starts_by_itself(
    tiny_model, start, inject, wait_for
):
    inject(act="segv", op="write", path="metrics.jsonl", n=1)
    crashing = start(model=str(tiny_model), max_steps=3)
    inject()
    waiting = start(model="/no/such/model", max_steps=3)
    assert store.read_run(waiting).state.status == "queued"
    # The supervisor of the first was started armed, and so is the worker it starts next;
    # that worker writes no metrics.
    wait_for(waiting, "failed")
    run = store.read_run(crashing)
    assert run.state.status == "interrupted"
    assert "SIGSEGV while training" in run.state.error.message
    assert "Segmentation fault" in store.log_tail(crashing)
    assert store.read_run(waiting).state.error.slug == "model-not-found"


def test_a_worker_that_hangs_is_noticed_and_can_be_ended_by_force(
    tiny_model, start, inject, wait_for, monkeypatch
):
    inject(act="freeze", op="write", path="metrics.jsonl", n=5)
    paths = start(model=str(tiny_model), **LEARNING)
    wait_for(lambda: store.read_run(paths).state.step == 3)
    run = store.read_run(paths)
    assert stalled(run) is None
    now = time.monotonic() + 3600
    monkeypatch.setattr(time, "monotonic", lambda: now)
    assert "No progress for" in stalled(run).message
    assert "step 3" in stalled(run).message
    monkeypatch.undo()
    ended = launch.end_run(paths, grace_seconds=0.5)
    assert ended.state.status == "stopped"
    assert ended.checkpoint_step == 2


def test_a_step_without_a_number_keeps_the_checkpoint_before_it(tiny_model, start, wait_for):
    """The first step is finite because half of a fresh adapter is zero; the second is not."""
    wild = {"lora_alpha": 1e20, "learning_rate": 1.0, "checkpoint_every": 1, "eval_every": 40}
    paths = start(model=str(tiny_model), max_steps=4, **wild)
    wait_for(lambda: not store.read_run(paths).is_active)
    run = store.read_run(paths)
    assert run.state.status == "failed"
    assert run.state.error.slug == "non-finite-loss"
    assert run.state.error.where.startswith("rows")
    assert run.checkpoint_step == run.state.step == 1


def test_a_model_removed_while_it_trains_is_missed_only_at_the_next_start(
    tiny_model, tmp_path, start, wait_for
):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    paths = start(model=str(model), max_steps=5000)
    wait_for(lambda: store.read_run(paths).state.step >= 1)
    shutil.rmtree(model)
    step = store.read_run(paths).state.step
    wait_for(lambda: store.read_run(paths).state.step > step)
    launch.stop_run(paths)
    wait_for(paths, "stopped")
    assert store.read_run(paths).has_adapter
    launch.resume_run(paths)
    wait_for(paths, "failed")
    card = store.read_run(paths).state.error
    assert card.slug == "model-not-found"
    assert str(model) in card.message
    assert store.read_run(paths).checkpoint_step > 0


def frozen_workers(paths):
    """Return the worker of a run, if there is one and it is frozen."""
    return [
        process
        for process in psutil.process_iter(["cmdline", "status"])
        if launch.WORKER in (process.info["cmdline"] or [])
        and str(paths.folder) in process.info["cmdline"]
        and process.info["status"] == psutil.STATUS_STOPPED
    ]


def test_two_sigterms_are_one_stop(tiny_model, start, inject, wait_for):
    inject(act="freeze", op="write", path="metrics.jsonl", n=2)  # the line of step 2
    paths = start(model=str(tiny_model), max_steps=5000)
    wait_for(lambda: frozen_workers(paths))
    (worker,) = frozen_workers(paths)
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGCONT):
        worker.send_signal(number)
    wait_for(paths, "stopped")
    run = store.read_run(paths)
    assert run.checkpoint_step == run.state.step
    assert run.has_adapter

    # Resumed and stopped again before the first step, it keeps what it had.
    before = adapter(paths)
    inject(act="freeze", op="rename", path="state.json", n=2)  # about to load the base model
    launch.resume_run(paths)
    wait_for(lambda: frozen_workers(paths))
    launch.stop_run(paths)
    frozen_workers(paths)[0].send_signal(signal.SIGCONT)
    wait_for(paths, "stopped")
    assert is_same(adapter(paths), before)
    assert store.read_run(paths).checkpoint_step == run.checkpoint_step
