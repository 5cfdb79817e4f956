"""bfloat16 on a CPU that multiplies it itself: measured speed and difference, offered. Floor 4.

Never chosen by itself: log-probs keep two to three digits. The estimate measures a step in both
number types and reports both numbers, so that the user can decide.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from orpo_qlora.config import TrainConfig
from orpo_qlora.jobs.measured_steps import Trial, TrialResult, try_steps
from orpo_qlora.models import loading
from orpo_qlora.models.devices import machine
from orpo_qlora.models.devices.hardware import Arithmetic
from orpo_qlora.orpo.engine import Engine
from orpo_qlora.orpo.objectives.base import CHOSEN
from orpo_qlora.orpo.rows.tokens import TokenizedPair
from orpo_qlora.runs.process import training_setup

COMPARED_PAIRS = 8
TOKENS_PER_FORWARD = 1024
CHANGE = {"compute_dtype": "bfloat16"}


def is_offered(config: TrainConfig, arithmetic: Arithmetic) -> bool:
    """Whether the settings leave the number type open and this CPU multiplies bfloat16 itself."""
    is_open = config.compute_dtype == "auto" and arithmetic.device == "cpu"
    return is_open and arithmetic.dtype == torch.float32 and machine.multiplies_bfloat16()


@dataclass(frozen=True)
class InFloat32:
    """What was measured in the default number type, of a new adapter."""

    logps: Tensor
    """Mean token log-probs of responses, nats."""
    seconds_a_token: float


@dataclass(frozen=True)
class Offer:
    """bfloat16 beside float32 on this machine."""

    speedup: float
    mean_nats: float
    """Mean difference in the mean token log-prob of a response."""
    most_nats: float
    responses: int

    def sentence(self) -> str:
        """Return the measured numbers and the setting, for the user to decide."""
        measured = (
            f"“Compute dtype” bfloat16 (--set compute_dtype=bfloat16), measured: a step takes "
            f"{1 / self.speedup:.0%} of its time in float32; mean log-probs of "
            f"{self.responses} responses differ by {self.mean_nats:.1g} nats a token on average, "
            f"{self.most_nats:.1g} at most."
        )
        if self.speedup <= 1:
            return f"{measured} It gains nothing here."
        return f"{measured} The default stays float32."


@torch.no_grad()
def response_logps(engine: Engine, pairs: Sequence[TokenizedPair]) -> Tensor:
    """Return the mean token log-probs of the responses of the first few pairs, in nats."""
    policy, means = engine.policy, []
    was_training = policy.training
    policy.eval()
    for group in engine.micro_steps(pairs[:COMPARED_PAIRS], TOKENS_PER_FORWARD):
        measured, _ = engine.measure(group)
        sums, counts = measured.sums[:, CHOSEN:], measured.counts[:, CHOSEN:]
        means.append((sums.double() / counts)[counts > 0])
    policy.train(was_training)
    return torch.cat(means)


def compare(
    config: TrainConfig,
    train: Sequence[TokenizedPair],
    held_out: Sequence[TokenizedPair],
    float32: InFloat32,
) -> Offer:
    """Load the base in bfloat16, take the same steps and return the offer.

    Raises:
        OutOfMemory: as for any training.
    """
    gc.collect()  # the float32 model
    changed = config.model_copy(update=CHANGE)
    base = training_setup.load_base_to_train(changed)
    policy = loading.attach_new_adapter(base, changed)
    engine = training_setup.engine_for(changed, policy, train)
    logps = response_logps(engine, train)
    result: TrialResult = try_steps(engine, changed, train, held_out, Trial())
    off = (logps - float32.logps).abs()
    return Offer(
        speedup=float32.seconds_a_token / result.seconds_a_token,
        mean_nats=float(off.mean()),
        most_nats=float(off.max()),
        responses=off.numel(),
    )
