"""Which cards torch may use, from what nvidia-smi prints and the environment."""

import pytest

from orpo_qlora.models.devices import gpus
from orpo_qlora.models.devices.gpus import GIGABYTE

L4 = "0, GPU-aaaa-1, NVIDIA L4, 23034, 580.65"
H100 = "1, GPU-bbbb-2, NVIDIA H100 80GB HBM3, 81559, 580.65"
MIXED = f"{L4}\n{H100}\n"
ALIKE = f"{L4}\n{L4.replace('0, GPU-aaaa-1', '1, GPU-cccc-3')}\n"
A100 = "0, GPU-5d5ba0d6-d33d, NVIDIA A100-SXM4-40GB, 40960, 580.65\n"
INSTANCES = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d)
  MIG 3g.20gb     Device  0: (UUID: MIG-c6d4f1ef-42e4)
  MIG 1g.5gb      Device  1: (UUID: MIG-cba663e8-9bed)
"""


def visible(answer, listing="", **environment):
    return gpus.visible_cards(gpus.read_cards(answer, listing), environment)


def names(found):
    return [gpu.name for gpu in found.gpus]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (None, ["NVIDIA L4", "NVIDIA H100 80GB HBM3"]),
        ("1", ["NVIDIA H100 80GB HBM3"]),
        ("GPU-aaaa", ["NVIDIA L4"]),
        ("1,0", ["NVIDIA H100 80GB HBM3", "NVIDIA L4"]),
        ("0,-1,1", ["NVIDIA L4"]),
        ("GPU-aaaa, GPU-none, 1", ["NVIDIA L4"]),
        ("", []),
        ("-1", []),
        ("7", []),
        ("GPU-", []),
        ("NoDevFiles", []),
    ],
)
def test_only_cards_that_torch_may_see_count(chosen, expected):
    chosen = {} if chosen is None else {"CUDA_VISIBLE_DEVICES": chosen}
    found = visible(MIXED, CUDA_DEVICE_ORDER="PCI_BUS_ID", **chosen)
    assert names(found) == expected
    assert bool(found.note) == (not expected)


def test_a_number_among_unlike_cards_may_mean_any_unless_they_are_counted_by_slot():
    # To CUDA, 1 is the slower card; to nvidia-smi it is the H100.
    found = visible(MIXED, CUDA_VISIBLE_DEVICES="1")
    assert names(found) == ["NVIDIA L4", "NVIDIA H100 80GB HBM3"]
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in found.note
    assert visible(MIXED, CUDA_VISIBLE_DEVICES="GPU-bbbb").note == ""
    alike = visible(ALIKE, CUDA_VISIBLE_DEVICES="1")
    assert (names(alike), alike.note) == (["NVIDIA L4"], "")


@pytest.mark.parametrize(
    ("chosen", "gigabytes"),
    [
        (None, [20, 5]),
        ("0", [20, 5]),
        ("MIG-cba663e8", [5]),
        ("MIG-c6d4f1ef-42e4", [20]),
        ("MIG-GPU-5d5ba0d6-d33d/1/0", [20, 5]),
        ("GPU-5d5ba0d6-d33d", [20]),
        ("MIG-ffff", []),
    ],
)
def test_an_instance_of_a_card_has_its_own_memory(chosen, gigabytes):
    chosen = {} if chosen is None else {"CUDA_VISIBLE_DEVICES": chosen}
    found = visible(A100, INSTANCES, **chosen)
    assert [gpu.memory_bytes // GIGABYTE for gpu in found.gpus] == gigabytes
    assert all("MIG" in gpu.name for gpu in found.gpus)


@pytest.mark.parametrize("answer", ["", "No devices were found\n", "0, GPU-a, T4, [N/A]\n", ",,\n"])
def test_an_answer_without_memory_is_no_card(answer):
    assert gpus.read_cards(answer) == []


def test_the_driver_is_read_and_may_be_missing():
    assert [card.driver for card in gpus.read_cards(MIXED)] == ["580.65", "580.65"]
    assert gpus.read_cards("0, GPU-a, Tesla T4, 15360\n")[0].driver == ""


def test_graphics_of_a_processor_are_no_card(tmp_path, monkeypatch):
    for index, memory in enumerate([GIGABYTE // 2, 16 * GIGABYTE]):
        device = tmp_path / f"card{index}" / "device"
        device.mkdir(parents=True)
        (device / "vendor").write_text("0x1002\n")
        (device / "mem_info_vram_total").write_text(f"{memory}\n")
    (tmp_path / "card2" / "device").mkdir(parents=True)
    monkeypatch.setattr(gpus, "AMD_CARDS", tmp_path)
    (found,) = gpus.amd_cards({})
    assert (found.memory_bytes, found.platform) == (16 * GIGABYTE, "ROCm")
