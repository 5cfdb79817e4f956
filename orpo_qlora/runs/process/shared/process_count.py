"""How many processes share a run, and whether this machine can run them. Floor 3; no torch."""

from __future__ import annotations

import psutil

from orpo_qlora.config import TrainConfig
from orpo_qlora.errors import ConfigError
from orpo_qlora.models.machine import usable_cores, visible_gpus


def process_count(config: TrainConfig) -> int:
    """Return the processes of a run on this machine: as set, or one for each visible GPU.

    Raises:
        ConfigError: more are set than there are GPUs, or on a CPU than a step has pairs; or two
            settings about the base contradict each other.
    """
    gpus = visible_gpus()
    if gpus and config.processes > gpus:
        has = "1 visible GPU" if gpus == 1 else f"{gpus} visible GPUs"
        raise ConfigError(
            f"processes is {config.processes}, and this machine has {has}; each process needs one "
            "of its own.",
            hint=f"Set processes to auto, or to at most {gpus}. CUDA_VISIBLE_DEVICES decides which "
            "are visible; docs/scale.md describes runs on several machines.",
        )
    if not gpus and config.processes > config.pairs_per_step:
        raise ConfigError(
            f"processes is {config.processes}, and a step has {config.pairs_per_step} pairs; a "
            "process without a pair only waits.",
            hint=f"Set processes to auto, or to at most {config.pairs_per_step}.",
        )
    if config.shard_base and config.dequant_cache == "all":
        raise ConfigError(
            "shard_base splits the base over the GPUs, and dequant_cache keeps all of it unpacked "
            "on each.",
            hint="Set dequant_cache to auto, or shard_base to false.",
        )
    # A process without a pair in any step would only wait.
    return config.processes or max(1, min(gpus, config.pairs_per_step))


def threads_of_each(processes: int) -> int:
    """Return the threads of each of so many processes that share the cores of this machine."""
    cores = min(psutil.cpu_count(logical=False) or 1, usable_cores())
    return max(1, cores // processes)
