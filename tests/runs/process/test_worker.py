"""The real worker process on a tiny real model."""

import json
import os
import signal
import time

import pytest
import yaml
from lesson import lesson

from orpo_qlora import storage
from orpo_qlora.config import build_config
from orpo_qlora.data.pairs import Split
from orpo_qlora.runs import store
from orpo_qlora.runs.curves import metrics
from orpo_qlora.runs.process import launch

WAIT_SECONDS = 240.0


def start(brief_model, **settings):
    base = {"model": str(brief_model), "pairs_per_step": 4, "held_out": 0.25, "max_steps": 6}
    return launch.start_run(build_config(base | settings), lesson(24))


def wait_until(condition):
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def records(paths):
    return [json.loads(line) for line in paths.metrics.read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(brief_model, tmp_path_factory):
    """One whole run that several tests look at."""
    home = tmp_path_factory.mktemp("home-of-a-finished-run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORPO_QLORA_HOME", str(home))
        paths = start(brief_model, lambda_=0.5, eval_every=3, name="whole")
        run = launch.wait_for(paths, WAIT_SECONDS)
    assert run.state.status == "finished", store.log_tail(paths)
    return run


def test_a_run_logs_each_step_once_with_the_documented_names(finished):
    found = records(finished.paths)
    steps = [r["step"] for r in found if "loss" in r]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert [r["step"] for r in found if "eval/loss" in r] == [0, 3, 6]
    names = {name.removeprefix("eval/") for r in found for name in r}
    of_other_methods, of_gpus = {"preference_loss", "kl"}, {"reserved_memory_bytes"}
    assert names - of_gpus == set(metrics.NAMES) - of_other_methods - of_gpus
    for record in found:
        prefix = "" if "loss" in record else "eval/"
        loss = record[prefix + "nll_loss"] + 0.5 * record[prefix + "or_loss"]
        assert record[prefix + "loss"] == pytest.approx(loss, rel=1e-6)
        margin = record[prefix + "rewards/chosen"] - record[prefix + "rewards/rejected"]
        assert record[prefix + "rewards/margins"] == pytest.approx(margin, abs=1e-6)


def test_a_run_says_how_it_went(finished):
    state = finished.state
    assert (state.step, state.total_steps) == (6, 6)
    assert state.ended_at > state.started_at > 0
    assert any("Arithmetic: float32" in note for note in state.notes)
    assert any("computed once for both answers" in note for note in state.notes)
    whens = [record["when"] for record in store.samples_of(finished.paths)]
    assert whens.count("start") == whens.count("evaluation") == whens.count("end") == 3
    settings = yaml.safe_load(finished.paths.config.read_text())
    assert settings["lambda"] == 0.5


def test_stop_keeps_a_usable_adapter(brief_model):
    paths = start(brief_model, max_steps=5000)
    wait_until(lambda: store.read_run(paths).state.step >= 2)
    # Frozen, or it might have stopped before anybody could see that it is about to.
    os.kill(worker_pid(paths), signal.SIGSTOP)
    launch.stop_run(paths)
    assert store.read_run(paths).state.status == "stopping"
    os.kill(worker_pid(paths), signal.SIGCONT)
    run = launch.wait_for(paths, WAIT_SECONDS)
    assert run.state.status == "stopped"
    assert run.state.step < 5000
    assert run.has_adapter


def worker_pid(paths):
    import psutil

    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if launch.WORKER in command and str(paths.folder) in command:
            return process.pid
    raise AssertionError("no worker")


def test_a_killed_worker_reads_as_interrupted_and_loses_no_line(brief_model):
    paths = start(brief_model, max_steps=5000)
    wait_until(lambda: store.read_run(paths).state.step >= 3)
    os.kill(worker_pid(paths), signal.SIGKILL)
    wait_until(lambda: store.read_run(paths).state.status == "interrupted")
    steps = [point[0] for point in store.metrics_of(paths).series("loss")]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) >= 3


@pytest.mark.parametrize(
    ("settings", "slug", "words"),
    [
        ({"max_length": 16}, "data", "longer than 16 tokens"),
        ({"lora_targets": "nonsense"}, "unsupported-model", "LoRA cannot be put"),
    ],
)
def test_a_failure_is_a_card_with_a_way_out(brief_model, settings, slug, words):
    paths = start(brief_model, **settings)
    run = launch.wait_for(paths, WAIT_SECONDS)
    assert run.state.status == "failed"
    assert run.state.error.slug == slug
    assert words in f"{run.state.error.message} {run.state.error.where} {run.state.error.hint}"
    assert run.state.error.hint


def test_lambda_zero_without_tracking_measures_chosen_only(brief_model):
    paths = start(brief_model, max_steps=2, **{"lambda": 0, "track_rejected": False})
    run = launch.wait_for(paths, WAIT_SECONDS)
    assert run.state.status == "finished", store.log_tail(paths)
    record = records(paths)[-1]
    assert "eval/logps/chosen" in record
    assert "eval/logps/rejected" not in record


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_a_method_with_a_reference_measures_it_once(brief_model, method):
    ends = []
    for _ in range(2):
        paths = start(brief_model, max_steps=2, method=method, learning_rate=1e-5)
        run = launch.wait_for(paths, WAIT_SECONDS)
        assert run.state.status == "finished", store.log_tail(paths)
        ends.append([value for _, value in store.metrics_of(paths).series("loss")])
        last = records(paths)[-1]
        assert last["eval/rewards/margins"] != 0
        assert {name.removeprefix("eval/") for name in last} <= set(metrics.NAMES)
        assert paths.reference.is_file()
    assert ends[0] == ends[1]
    assert "measuring the reference" not in paths.log.read_text()  # taken from the cache


def test_a_run_killed_while_it_measures_the_reference_is_resumed(brief_model):
    paths = start(brief_model, max_steps=2, method="dpo", max_tokens_per_forward=16)
    cache = storage.home() / "cache" / "reference"
    wait_until(lambda: any(cache.glob("*.jsonl")))
    os.kill(worker_pid(paths), signal.SIGKILL)
    wait_until(lambda: store.read_run(paths).state.status == "interrupted")
    launch.resume_run(paths)
    run = launch.wait_for(paths, WAIT_SECONDS)
    assert run.state.status == "finished", store.log_tail(paths)


def test_recomputed_activations_change_nothing_but_memory(brief_model):
    losses = []
    for recompute in ("off", "on"):
        paths = start(brief_model, max_steps=3, activation_checkpointing=recompute)
        run = launch.wait_for(paths, WAIT_SECONDS)
        assert run.state.status == "finished", store.log_tail(paths)
        losses.append([value for _, value in store.metrics_of(paths).series("loss")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_measurement_that_is_no_number_does_not_end_the_run():
    from orpo_qlora.runs.process.worker import Worker

    made = lesson(24)
    paths = store.create_run(build_config({}), Split(made.pairs, ()), made.report)
    worker = Worker(paths)
    worker._metrics = storage.JsonLines(paths.metrics)
    worker._has_base_answers = True
    worker.on_evaluation({"step": 0, "eval/loss": float("nan"), "eval/nll_loss": 2.0})
    worker._metrics.close()
    assert records(paths) == [{"step": 0, "eval/loss": "NaN", "eval/nll_loss": 2.0}]
    assert store.metrics_of(paths).broken("loss", held_out=True) == [0]
