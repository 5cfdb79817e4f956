"""A whole run on a mixture of experts: train, stop, resume, evaluate, export, merge."""

import time

import pytest
from lesson import lesson
from tiny import make_tiny_experts

from orpo_qlora.config import build_config
from orpo_qlora.evaluation import request as evaluation_request
from orpo_qlora.export.bundle import export_adapter
from orpo_qlora.export.merge import merge_run
from orpo_qlora.export.origin import origin_of
from orpo_qlora.export.reports.passport import loss_passport
from orpo_qlora.runs import store
from orpo_qlora.runs.process import launch

WAIT_SECONDS = 240.0


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe"])
def test_a_mixture_of_experts_trains_resumes_and_is_merged(kind, tmp_path):
    model = make_tiny_experts(tmp_path / kind, kind)
    values = {"model": str(model), "pairs_per_step": 4, "held_out": 0.25, "max_steps": 500}
    values |= {"learning_rate": 0.01, "lora_r": 4, "eval_every": 250}
    paths = launch.start_run(build_config(values), lesson(24))
    deadline = time.monotonic() + WAIT_SECONDS
    while store.read_run(paths).state.step < 2:
        assert time.monotonic() < deadline, store.log_tail(paths)
        time.sleep(0.05)
    launch.stop_run(paths)
    stopped = launch.wait_for(paths, WAIT_SECONDS)
    assert stopped.state.status == "stopped", store.log_tail(paths)
    assert launch.resume_run(paths) == stopped.state.step >= 2
    while store.read_run(paths).state.step <= stopped.state.step:
        assert time.monotonic() < deadline, store.log_tail(paths)
        time.sleep(0.05)
    launch.stop_run(paths)
    run = launch.wait_for(paths, WAIT_SECONDS)
    assert run.state.error is None, run.state.error
    facts = {fact.label: fact.value for fact in loss_passport(run, origin_of(run))}
    assert facts["Experts"].startswith("adapters on down_proj and gate_up_proj of 4 experts in 2")
    assert run.has_adapter
    card = evaluation_request.wait_for(run, lambda _: None)
    assert len(card.scores.rows) == 6
    export_adapter(run, tmp_path / "out.zip")
    assert merge_run(run, tmp_path / "merged", "float32").largest < 1e-3
