"""Cores, memory and GPU of this machine, read without torch, and the preset that fits. Floor 1.

`hardware.py` decides what a program computes with; this only proposes a preset.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil

from orpo_qlora.models.devices import gpus
from orpo_qlora.models.devices.gpus import GIGABYTE, Gpu
from orpo_qlora.shipped_presets import preset_names

CPU_DESCRIPTION = Path("/proc/cpuinfo")
BFLOAT16_UNITS = {"amx_bf16", "avx512_bf16"}
"""CPU flags of units that multiply bfloat16; without one it is emulated, up to 90 times slower."""
GPU_PRESET = re.compile(r"gpu-(\d+)gb")
USABLE_SHARE = 0.92
"""A card sold with 24 GB reports 22.5 to 24."""


@dataclass(frozen=True)
class Machine:
    """Cores, memory and the card that decides what fits."""

    cores: int
    memory_bytes: int
    gpu: Gpu | None = None
    computes_on_gpu: bool = True
    """Off: the installed torch was not built for the card's platform."""
    driver: str = ""
    """Version of the GPU driver."""
    note: str = ""
    """What may be different from what was read; empty where nothing is."""

    @property
    def words(self) -> str:
        """Return the machine in a phrase: “2 CPU cores, no GPU”."""
        cores = f"{self.cores} CPU core" + ("" if self.cores == 1 else "s")
        if self.gpu is None:
            return f"{cores}, no GPU"
        if self.computes_on_gpu:
            return f"{self.gpu.words}, {cores}"
        lacking = f"torch is installed without {self.gpu.platform}"
        return f"{cores}; {self.gpu.words} cannot be used, as {lacking}"

    @property
    def preset(self) -> str:
        """Return the name of the largest shipped preset that fits."""
        memory = self.gpu.memory_bytes if self.gpu and self.computes_on_gpu else 0
        fitting = [
            (int(found[1]), name)
            for name in preset_names()
            if (found := GPU_PRESET.fullmatch(name))
            and int(found[1]) * GIGABYTE * USABLE_SHARE <= memory
        ]
        return max(fitting)[1] if fitting else "demo-cpu"


@functools.cache
def this_machine() -> Machine:
    """Return this machine; read once per process."""
    answer = gpus.ask_driver()
    cards = gpus.read_cards(answer, gpus.ask_driver(gpus.LIST) if answer else "")
    visible = gpus.visible_cards(cards, os.environ)
    if not cards:
        visible = gpus.Visible(gpus.amd_cards(os.environ), _apple_note())
    # The smallest of several: what fits there fits whichever card torch takes first.
    smallest = min(visible.gpus, key=lambda gpu: gpu.memory_bytes, default=None)
    return Machine(
        cores=usable_cores(),
        memory_bytes=psutil.virtual_memory().total,
        gpu=smallest,
        computes_on_gpu=smallest is None or _is_built_for(smallest.platform, _torch_version()),
        driver=next((card.driver for card in cards), ""),
        note=visible.note,
    )


def multiplies_bfloat16() -> bool:
    """Whether the CPU has a unit for bfloat16; False where its flags cannot be read."""
    try:
        text = CPU_DESCRIPTION.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    flags = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return flags is not None and not BFLOAT16_UNITS.isdisjoint(flags[1].split())


@functools.cache
def visible_gpus() -> int:
    """Return how many GPUs torch can use, each by a process of its own; read once per process.

    A card that is split into MIG instances counts as one, unless CUDA_VISIBLE_DEVICES lists them.
    """
    answer = gpus.ask_driver()
    cards = gpus.read_cards(answer, gpus.ask_driver(gpus.LIST) if answer else "")
    if not cards:
        found, platform = len(gpus.amd_cards(os.environ)), "ROCm"
    else:
        found, platform = len(cards), "CUDA"
        chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
        if chosen is not None:
            named = len(gpus.visible_cards(cards, os.environ).gpus)
            found = min(named, len(chosen.split(",")))
    return found if _is_built_for(platform, _torch_version()) else 0


def usable_cores() -> int:
    """Return the logical processors this process may use; macOS does not restrict them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _apple_note() -> str:
    if sys.platform != "darwin":
        return ""
    return "Apple GPUs are not used: training in 4 bits needs CUDA or ROCm. It runs on the CPU."


def _is_built_for(platform: str, version: str) -> bool:
    """Whether an installed torch can use cards of a platform, from its version."""
    _, _, build = version.partition("+")
    if platform == "ROCm":
        return build.startswith("rocm")
    return not build.startswith(("cpu", "rocm", "xpu"))


def _torch_version() -> str:
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return ""
