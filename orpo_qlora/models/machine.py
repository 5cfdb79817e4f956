"""Cores, memory and GPU of this machine, read without torch, and the preset that fits. Floor 1.

`hardware.py` decides what a program computes with; this only proposes a preset.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib import metadata

import psutil

from orpo_qlora.config import preset_names

ASK_SECONDS = 5.0
"""Timeout of nvidia-smi: a sleeping card needs a second or two."""
QUESTION = ("--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits")
GPU_PRESET = re.compile(r"gpu-(\d+)gb")
USABLE_SHARE = 0.92
"""A card sold with 24 GB reports 22.5 to 24."""
GIGABYTE = 1024**3


@dataclass(frozen=True)
class Gpu:
    """A card that torch could use."""

    name: str
    memory_bytes: int

    @property
    def words(self) -> str:
        """Name and memory."""
        return f"{self.name} ({round(self.memory_bytes / GIGABYTE)} GB)"


@dataclass(frozen=True)
class Machine:
    """Cores, memory and the card that decides what fits."""

    cores: int
    memory_bytes: int
    gpu: Gpu | None = None
    computes_on_gpu: bool = True
    """Off: the installed torch was built without CUDA."""

    @property
    def words(self) -> str:
        """Return the machine in a phrase: “2 CPU cores, no GPU”."""
        cores = f"{self.cores} CPU core" + ("" if self.cores == 1 else "s")
        if self.gpu is None:
            return f"{cores}, no GPU"
        if self.computes_on_gpu:
            return f"{self.gpu.words}, {cores}"
        return f"{cores}; {self.gpu.words} cannot be used, as torch is installed without CUDA"

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
    cards = visible_cards(_ask_driver(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    return Machine(
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=psutil.virtual_memory().total,
        # The smallest of several: what fits there fits whichever card torch takes first.
        gpu=min(cards, key=lambda card: card.memory_bytes, default=None),
        computes_on_gpu=not _torch_version().endswith("+cpu"),
    )


def _ask_driver() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    try:
        asked = subprocess.run(
            [program, *QUESTION],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=ASK_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""  # then the smallest preset is proposed; all can still be chosen
    return asked.stdout


def visible_cards(answer: str, chosen: str | None) -> list[Gpu]:
    """Return the cards in the driver's answer that torch may see.

    Args:
        answer: one line a card: index, UUID, name, memory in MiB.
        chosen: `CUDA_VISIBLE_DEVICES`, None where it is not set.
    """
    cards = {}
    for line in answer.splitlines():
        index, uuid, name, memory = (line.split(", ") + [""] * 4)[:4]
        if memory.strip().isdecimal():
            cards[index] = (uuid, Gpu(name, int(memory) * 1024**2))
    if chosen is None:
        return [card for _, card in cards.values()]
    wanted = [part.strip() for part in chosen.split(",") if part.strip()]
    return [
        card
        for index, (uuid, card) in cards.items()
        if any(index == part or (len(part) > 3 and uuid.startswith(part)) for part in wanted)
    ]


def _torch_version() -> str:
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return ""
