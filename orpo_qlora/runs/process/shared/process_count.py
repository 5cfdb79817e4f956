"""How many processes share a run or job, and whether this machine has room. Floor 3; no torch."""

from __future__ import annotations

import psutil

from orpo_qlora.config import TrainConfig
from orpo_qlora.data.wording import plural
from orpo_qlora.errors import ConfigError
from orpo_qlora.models.devices.machine import usable_cores, visible_gpus


def process_count(config: TrainConfig) -> int:
    """Return the processes of a run on this machine: as set, or one for each visible GPU.

    Raises:
        ConfigError: more are set than there are GPUs, or on a CPU than a step has pairs; or two
            settings about the base contradict each other.
    """
    if config.shard_base and config.dequant_cache == "all":
        raise ConfigError(
            "shard_base splits the base over the GPUs, and dequant_cache keeps all of it unpacked "
            "on each.",
            hint="Set dequant_cache to auto, or shard_base to false.",
        )
    pairs = config.pairs_per_step
    return processes_for(config.processes, pairs, f"a step has {plural(pairs, 'pair')}")


def processes_for(wanted: int, items: int, has_items: str) -> int:
    """Return the processes that share some work on this machine.

    Args:
        wanted: processes; 0 is one for each visible GPU, 1 on a CPU.
        items: what is shared out; a process without one would only wait.
        has_items: how many there are, as the error says it.

    Raises:
        ConfigError: more are wanted than there are GPUs, or on a CPU than items.
    """
    gpus = visible_gpus()
    if gpus and wanted > gpus:
        has = "1 visible GPU" if gpus == 1 else f"{gpus} visible GPUs"
        raise ConfigError(
            f"processes is {wanted}, and this machine has {has}; each process needs one of its "
            "own.",
            hint=f"Set processes to auto, or to at most {gpus}. CUDA_VISIBLE_DEVICES decides which "
            "are visible; docs/scale.md describes runs on several machines.",
        )
    if not gpus and wanted > max(1, items):
        raise ConfigError(
            f"processes is {wanted}, and {has_items}; a process without one only waits.",
            hint=f"Set processes to auto, or to at most {max(1, items)}.",
        )
    return wanted or max(1, min(gpus, items))


def threads_of_each(processes: int) -> int:
    """Return the threads of each of so many processes that share the cores of this machine."""
    cores = min(psutil.cpu_count(logical=False) or 1, usable_cores())
    return max(1, cores // processes)
