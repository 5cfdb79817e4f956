"""The GPU table: both trainers on a tiny random model, and what the file says."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as table
from benchmarks.gpu import kernels, trainer
from benchmarks.gpu.shapes import CELLS, SHAPES, pairs_of, random_policy
from benchmarks.gpu.trainer import Task
from orpo_qlora.models.devices.hardware import choose_arithmetic
from orpo_qlora.models.devices.memory import shape_of


@pytest.mark.filterwarnings("ignore")  # TRL's and accelerate's own
def test_both_trainers_measure_the_same_step():
    task = Task("tiny-llama", "tiny", trainer.WARM_UP + 2, 60.0)
    rows = []
    for name in ("ours", "trl"):
        policy, tokenizer = random_policy(task.shape, choose_arithmetic())
        rows.append(trainer._measure(policy, tokenizer, task, name))
    ours, trl = rows
    assert ours.loss == pytest.approx(trl.loss, rel=1e-4)
    assert (ours.steps, trl.steps) == (2, 2)
    assert ours.seconds > 0 < trl.seconds
    assert "Layout:" in ours.note
    assert trl.note == "batch 4"
    assert (ours.error, trl.error) == ("", "")


def test_random_models_have_the_shapes_of_the_real_ones():
    assert shape_of(SHAPES["llama-8b"].to_dict()).linear_weights == 6_979_321_856
    assert shape_of(SHAPES["qwen-0.5b"].to_dict()).linear_weights == 357_826_560
    policy, _ = random_policy("tiny-qwen", choose_arithmetic())
    assert not any(tensor.is_meta for tensor in (*policy.parameters(), *policy.buffers()))
    logits = policy(input_ids=torch.tensor([[20, 21, 22]])).logits
    assert logits.isfinite().all()


@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_has_pairs_for_every_step(cell):
    pairs = pairs_of(cell, 3, 512)
    assert len(pairs) == 3 * CELLS[cell].pairs_per_step
    assert pairs == pairs_of(cell, 3, 512)
    assert all(CELLS[cell].pairs_per_step % batch == 0 for batch in CELLS[cell].batches)


def test_what_no_time_was_left_for_is_named():
    assert table._run_trainer("trl", "llama-8b", table.WHOLE, 0.0) == (
        [],
        "TRL on llama-8b: not measured, no time left",
    )
    assert table.WHOLE.deadline < 600


def test_the_file_has_a_row_a_cell_and_names_problems():
    task = Task("llama-8b", "hh", 8, 14.0)
    failed = trainer._failed(task, "trl", "out of memory at batch 4")
    measured = dataclasses.replace(
        failed,
        trainer="ours",
        seconds=2.0,
        pairs_per_step=32,
        tokens_per_step=12_000.0,
        bytes_above_weights=3e9,
        reserved_bytes=9e9,
        loss=1.5,
        note="Layout: shared.",
        error="",
    )
    text = table.to_markdown(
        {
            "is_dry_run": False,
            "packages": {"torch": "2.13.0"},
            "cells": [dataclasses.asdict(row) for row in (measured, failed)],
            "problems": ["TRL on qwen-0.5b: long not measured: stopped after 30 seconds"],
            "tests": "6 passed",
        }
    )
    assert "| llama-8b | hh | orpo-qlora | 16.00 | 6,000 | 2.000 | 3.00 | 9.00 | 1.50000 |" in text
    assert "out of memory at batch 4" in text
    assert "long not measured" in text
    assert "Tests marked `gpu`: 6 passed" in text


def test_norms_and_activations_are_timed_alone(monkeypatch):
    monkeypatch.setattr(kernels, "REPEATS", 1)
    found = kernels.kernel_times("tiny-llama", choose_arithmetic(), 8)
    assert found["seconds"]["torch"]["SwiGLU, backward"] > 0
    found |= {"problem": "Triton is not installed", "tokens": 8192}
    text = "\n".join(table._kernel_lines(found))
    assert "(Triton is not installed). Microseconds of one call on 8192 tokens" in text
    assert "| RMS norm, forward | " in text


@pytest.mark.parametrize(
    ("tests", "checks", "problems"),
    [
        ((0, "exit code 0: 6 passed"), [True], []),
        ((1, "exit code 1: 1 failed"), [True], ["tests: exit code 1: 1 failed"]),
        ((0, "exit code 0: 6 passed"), [True, False], ["doctor: gradients: off by 1"]),
    ],
)
def test_failed_tests_and_checks_decide_the_exit_code(
    monkeypatch, tmp_path, capsys, tests, checks, problems
):
    out = tmp_path / "gpu.json"
    report = {"checks": [{"name": "gradients", "ok": ok, "detail": "off by 1"} for ok in checks]}
    monkeypatch.setattr(table.sys, "argv", ["gpu", "--dry-run", "--out", str(out)])
    monkeypatch.setattr(table, "_run_trainer", lambda *_: ([], ""))
    monkeypatch.setattr(table, "_time_kernels", lambda *_: None)
    monkeypatch.setattr(table, "_run_tests", lambda _: table._Ended(*tests))
    monkeypatch.setattr(table, "_run_doctor", lambda _: report)
    assert table.main() == (1 if problems else 0)
    assert json.loads(out.read_text())["problems"] == problems


def test_the_script_can_be_run():
    script = Path(__file__).parents[2] / "benchmarks/gpu.sh"
    assert os.access(script, os.X_OK)
    assert "-m benchmarks.gpu" in script.read_text(encoding="utf-8")
