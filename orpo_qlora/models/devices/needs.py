"""What a base model needs, before it is downloaded: from its size alone. Floor 1; no torch."""

from __future__ import annotations

from dataclasses import dataclass

from orpo_qlora.models.devices.gpus import GIGABYTE
from orpo_qlora.models.devices.machine import Machine, visible_gpus

DOWNLOAD_GB = 2.0
"""Per billion parameters: 16-bit weights."""
MEMORY_GB, MEMORY_BASE_GB = 1.0, 3.0
"""Per billion parameters and in any case: 4-bit weights, embeddings, adapter and activations with
recomputation, for sequences of a few thousand tokens. “Estimate” measures it."""
CPU_BILLION = 1.0
"""Larger models take days without a GPU."""


@dataclass(frozen=True)
class Needs:
    """What training needs at least, and whether a machine has it."""

    sentence: str
    warning: str
    """Why the machine is too small; empty if it is not."""


def needs_of(model: str, parameters_billion: float, machine: Machine) -> Needs | None:
    """Return what a model of this size needs; None if the size is unknown."""
    if not parameters_billion:
        return None
    memory = MEMORY_BASE_GB + MEMORY_GB * parameters_billion
    sentence = (
        f"{model} has {parameters_billion:g} billion parameters: a download of about "
        f"{DOWNLOAD_GB * parameters_billion:,.0f} GB, and about {memory:,.0f} GB of memory to "
        "train in 4 bits."
    )
    return Needs(sentence, _warning(parameters_billion, memory, machine))


def _together(held_gb: float, memory: float) -> str:
    """Return how several GPUs may hold what one of so many gigabytes does not."""
    gpus = visible_gpus()
    if gpus < 2 or gpus * held_gb < memory:
        return ""
    return f" Its {gpus} GPUs together may hold it: set “Shard the base” (shard_base)."


def _warning(parameters_billion: float, memory: float, machine: Machine) -> str:
    has_gpu = machine.gpu is not None and machine.computes_on_gpu
    held = machine.gpu.memory_bytes if machine.gpu and has_gpu else machine.memory_bytes
    held_gb = held / GIGABYTE
    if held_gb < memory:
        what = "GPU memory" if has_gpu else "memory and no usable GPU"
        return (
            f"This machine has {held_gb:,.0f} GB of {what}: too little.{_together(held_gb, memory)}"
        )
    if not has_gpu and parameters_billion > CPU_BILLION:
        return "This machine has no usable GPU: training would take days."
    return ""
