import subprocess
import sys

import pytest

from orpo_qlora.models.devices import gpus, machine
from orpo_qlora.models.devices.gpus import GIGABYTE, Gpu
from orpo_qlora.models.devices.machine import Machine
from orpo_qlora.shipped_presets import preset_names

TWO = "0, GPU-a, NVIDIA L4, 23034, 580.65\n1, GPU-b, NVIDIA H100, 81559, 580.65\n"


def with_card(mebibytes, *, computes=True):
    return Machine(8, 64 * GIGABYTE, Gpu("a card", mebibytes * 1024**2), computes)


@pytest.mark.parametrize(
    ("mebibytes", "preset"),
    [
        (4096, "demo-cpu"),
        (6144, "demo-cpu"),
        (8188, "gpu-08gb"),
        (12288, "gpu-08gb"),
        (15360, "gpu-16gb"),
        (16376, "gpu-16gb"),
        (23034, "gpu-24gb"),
        (24564, "gpu-24gb"),
        (49140, "gpu-24gb"),
        (81559, "gpu-80gb"),
        (143771, "gpu-80gb"),
    ],
)
def test_card_gets_the_largest_preset_that_fits(mebibytes, preset):
    assert with_card(mebibytes).preset == preset
    assert preset in preset_names()


def test_without_a_gpu_the_demo_preset_is_proposed():
    bare = Machine(2, 8 * GIGABYTE)
    assert (bare.words, bare.preset) == ("2 CPU cores, no GPU", "demo-cpu")
    assert Machine(1, 1).words.startswith("1 CPU core,")


def test_a_card_that_torch_cannot_use_is_not_counted_on():
    idle = with_card(24564, computes=False)
    assert idle.preset == "demo-cpu"
    assert "cannot be used" in idle.words
    assert with_card(24564).words == "a card (24 GB), 8 CPU cores"


@pytest.mark.parametrize(
    ("script", "seconds", "preset"),
    [
        (f"printf '{TWO}'", 120, "gpu-24gb"),
        ("echo failed; exit 9", 120, "demo-cpu"),
        ("sleep 60", 0.5, "demo-cpu"),
    ],
)
def test_driver_is_asked_and_may_fail(tmp_path, monkeypatch, script, seconds, preset):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpus, "ASK_SECONDS", seconds)
    monkeypatch.setattr(machine, "_torch_version", lambda: "2.13.0+cu130")
    machine.this_machine.cache_clear()
    try:
        assert machine.this_machine().preset == preset
    finally:
        machine.this_machine.cache_clear()


def test_it_is_asked_without_torch():
    code = (
        "import sys; from orpo_qlora.models.devices import machine; machine.this_machine(); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def fresh():
    machine.this_machine.cache_clear()
    yield
    machine.this_machine.cache_clear()


def test_macos_has_cores_though_it_has_no_affinity(monkeypatch, fresh):
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: 10)
    monkeypatch.setattr(machine.sys, "platform", "darwin")
    monkeypatch.setattr(gpus, "ask_driver", lambda *_: "")
    found = machine.this_machine()
    assert (found.cores, found.preset) == (10, "demo-cpu")
    assert "Apple GPUs are not used" in found.note


@pytest.mark.parametrize(
    ("version", "of_cuda", "of_rocm"),
    [
        ("2.13.0", True, False),
        ("2.13.0+cu130", True, False),
        ("2.13.0+cpu", False, False),
        ("2.13.0+rocm7.1", False, True),
        ("", True, False),
    ],
)
def test_torch_uses_the_cards_it_was_built_for(version, of_cuda, of_rocm):
    assert machine._is_built_for("CUDA", version) is of_cuda
    assert machine._is_built_for("ROCm", version) is of_rocm


def test_an_amd_card_is_used_by_a_torch_for_rocm_alone(tmp_path, monkeypatch, fresh):
    device = tmp_path / "card0" / "device"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x1002\n")
    (device / "mem_info_vram_total").write_text(str(24 * GIGABYTE))
    monkeypatch.setattr(gpus, "AMD_CARDS", tmp_path)
    monkeypatch.setattr(gpus, "ask_driver", lambda *_: "")
    monkeypatch.setattr(machine, "_torch_version", lambda: "2.13.0+rocm7.1")
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    assert machine.this_machine().preset == "gpu-24gb"
    machine.this_machine.cache_clear()
    monkeypatch.setattr(machine, "_torch_version", lambda: "2.13.0+cpu")
    assert "AMD GPU (24 GB) cannot be used" in machine.this_machine().words
    assert "without ROCm" in machine.this_machine().words
    machine.this_machine.cache_clear()
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "")
    assert machine.this_machine().gpu is None
