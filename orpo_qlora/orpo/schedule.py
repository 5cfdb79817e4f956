"""How often a training measures itself. Floor 2; no torch."""

from __future__ import annotations

import math

from orpo_qlora.config import TrainConfig

EVALUATIONS_A_RUN = 4


def evaluation_every(config: TrainConfig, steps: int) -> int:
    """Return the optimizer steps between evaluations of a run of `steps` steps."""
    return config.eval_every or max(1, math.ceil(steps / EVALUATIONS_A_RUN))
