import subprocess
import sys

import pytest

from orpo_qlora.config import preset_names
from orpo_qlora.models import machine
from orpo_qlora.models.machine import GIGABYTE, Gpu, Machine

TWO = "0, GPU-aaaa-1, NVIDIA L4, 23034\n1, GPU-bbbb-2, NVIDIA H100 80GB HBM3, 81559\n"


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
    ("chosen", "names"),
    [
        (None, ["NVIDIA L4", "NVIDIA H100 80GB HBM3"]),
        ("1", ["NVIDIA H100 80GB HBM3"]),
        ("GPU-aaaa", ["NVIDIA L4"]),
        ("1,0", ["NVIDIA L4", "NVIDIA H100 80GB HBM3"]),
        ("", []),
        ("-1", []),
    ],
)
def test_only_cards_that_torch_may_see_count(chosen, names):
    assert [card.name for card in machine.visible_cards(TWO, chosen)] == names


@pytest.mark.parametrize("answer", ["", "No devices were found\n", "0, GPU-a, T4, [N/A]\n", ",,\n"])
def test_an_answer_without_memory_is_no_card(answer):
    assert machine.visible_cards(answer, None) == []


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
    monkeypatch.setattr(machine, "ASK_SECONDS", seconds)
    monkeypatch.setattr(machine, "_torch_version", lambda: "2.13.0+cu130")
    machine.this_machine.cache_clear()
    try:
        assert machine.this_machine().preset == preset
    finally:
        machine.this_machine.cache_clear()


def test_it_is_asked_without_torch():
    code = (
        "import sys; from orpo_qlora.models import machine; machine.this_machine(); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
