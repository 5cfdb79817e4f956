"""The checks of `doctor` pass on this machine, find wrong kernels, and publish nothing private."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from orpo_qlora.models.devices.gpus import GIGABYTE, Gpu
from orpo_qlora.models.devices.hardware import Arithmetic
from orpo_qlora.models.devices.machine import Machine
from orpo_qlora.orpo.doctor import program, self_check, tiny
from orpo_qlora.orpo.kernels.lora_linear import LoraProduct

CPU = Arithmetic("cpu", torch.float32, "float32 for a test")
TOKEN = "hf_" + "a" * 30


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.write_model(tmp_path_factory.mktemp("doctor") / "model")


def report_in(folder):
    return json.loads((folder / program.REPORT).read_text(encoding="utf-8"))


def test_this_machine_passes_and_the_report_is_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    examination = program.examine(tmp_path)
    report = report_in(tmp_path)
    assert examination.ok, report["checks"]
    assert report["ok"]
    assert [check["name"] for check in report["checks"]] == [
        *("PyTorch", "Device", "bitsandbytes", "Tiny model", "Engine in float32"),
        *("Resume", "Throughput"),
    ]
    assert report["packages"]["torch"] == torch.__version__
    assert report["engine_float32"]["layout"] == "shared"
    assert report["engine_float32"]["fused"]["lora_linear"] == 14
    assert report["throughput"]["tokens_per_second"] > 0
    assert report["throughput"]["engine"].startswith("Layout: each prompt is computed once")
    assert "bit for bit" in report["checks"][-2]["detail"]
    text = json.dumps(report)
    assert not any(private in text for private in (TOKEN, str(Path.home()), str(tmp_path)))


def test_a_wrong_gradient_of_a_kernel_is_found(model, monkeypatch, tmp_path):
    right = LoraProduct.adapter_gradients

    def wrong(self, *arguments):
        of_a, of_b = right(self, *arguments)
        return of_a, 1.1 * of_b

    monkeypatch.setattr(LoraProduct, "adapter_gradients", wrong)
    examination = program.Examination(tmp_path)
    assert not examination.run("Engine", lambda: program._engine(examination, model, CPU, "x"))
    assert "correct, but take longer" in examination.checks[0].detail


def broken_library(*_, **__):
    raise RuntimeError(f"no kernel image in {Path.home()}/lib for {TOKEN}")


def test_a_broken_library_fails_its_check_with_a_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr(self_check, "quantize_4bit", broken_library)
    assert not program.examine(tmp_path).ok
    last = report_in(tmp_path)["checks"][-1]
    assert (last["name"], last["ok"]) == ("bitsandbytes", False)
    assert "no kernel image in ~/lib for hf_…" in last["detail"]
    assert "pip install" in last["hint"]


@pytest.mark.parametrize(
    ("driver", "hint"), [("535.54", "Driver 535.54"), ("", "Install torch built for this GPU")]
)
def test_a_card_that_torch_cannot_use_fails(tmp_path, monkeypatch, driver, hint):
    from orpo_qlora.orpo.doctor import facts

    machine = Machine(8, GIGABYTE, Gpu("NVIDIA L4", 24 * GIGABYTE), driver=driver)
    monkeypatch.setattr(program, "this_machine", lambda: machine)
    monkeypatch.setattr(facts, "torch_build", lambda: "CUDA 13.0" if driver else "CPU")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not program.examine(tmp_path).ok
    (only,) = report_in(tmp_path)["checks"]
    assert "cannot use NVIDIA L4" in only["detail"]
    assert only["hint"].startswith(hint)


def test_a_check_that_never_returns_is_named_in_the_report(tmp_path):
    examination = program.Examination(tmp_path)

    def crash():
        report = report_in(tmp_path)
        assert (report["running"], report["ok"]) == ("Device", False)
        return "found"

    assert examination.run("Device", crash)
    assert "running" not in report_in(tmp_path)


@pytest.mark.parametrize(
    ("text", "published"),
    [
        (f"{Path.home()}/x/y.so", "~/x/y.so"),
        ("/home/someone/lib: missing", "/home/…/lib: missing"),
        ("/Users/someone", "/Users/…"),
        ("GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77,1", "GPU-5d5ba0d6…,1"),
        ("MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f", "MIG-c6d4f1ef…"),
        (TOKEN, "hf_…"),
        ("0,1", "0,1"),
    ],
    ids=["home", "another-home", "mac", "uuid", "mig", "token", "plain"],
)
def test_what_names_a_user_is_not_published(text, published):
    assert program.publishable(text) == published


def test_a_step_that_differs_fails_its_check(model, monkeypatch, tmp_path):
    right = self_check.engine_step

    def wrong(*arguments):
        step = right(*arguments)
        return dataclasses.replace(step, metrics=step.metrics | {"loss": 1.0})

    monkeypatch.setattr(self_check, "engine_step", wrong)
    examination = program.Examination(tmp_path)
    assert not examination.run("Engine", lambda: program._engine(examination, model, CPU, "x"))
    assert "differs from PEFT's own path: loss" in examination.checks[0].detail
