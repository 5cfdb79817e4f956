"""Evaluation schedule of a training. Floor 2; no torch."""

from __future__ import annotations

import math

from orpo_qlora.config import TrainConfig

EVALUATIONS_PER_RUN = 4


def evaluation_every(config: TrainConfig, steps: int) -> int:
    """Return the optimizer steps between evaluations of a run of `steps` steps.

    `eval_every` if it is set, else `EVALUATIONS_PER_RUN` evaluations at equal distances.
    """
    return config.eval_every or max(1, math.ceil(steps / EVALUATIONS_PER_RUN))
