"""DPO: log-ratios to a reference as rewards (arXiv 2305.18290). Floor 2.

Source: https://github.com/huggingface/trl/blob/v1.16.0/trl/trainer/dpo_trainer.py, `_compute_loss`
with `loss_type="sigmoid"`. TRL's label smoothing has no effect on that type in 1.16 (its `robust`
has another formula); here it is that of the authors' conservative DPO, which TRL's CPO has too.
TRL's `logps/*` are sums, here means.
"""

from __future__ import annotations

from dataclasses import dataclass

from orpo_qlora.config import TrainConfig
from orpo_qlora.methods import beta_of
from orpo_qlora.orpo.objectives.base import PairSums, StepTotals, Terms, sigmoid_loss
from orpo_qlora.orpo.objectives.measurements import response_metrics, reward_metrics


@dataclass(frozen=True)
class Dpo:
    """Equation 7, loss = mean(−log σ(β·(g_w − g_l))), g the summed log-prob minus the reference's.

    With label smoothing ε, (1 − ε) of the loss is this and ε that of the swapped pair.
    """

    beta: float
    label_smoothing: float

    @classmethod
    def of(cls, config: TrainConfig) -> Dpo:
        """Return the objective that these settings ask for."""
        return cls(beta_of(config), config.label_smoothing)

    def __call__(self, pairs: PairSums, totals: StepTotals) -> Terms:
        """Return one micro-step's share of the step's loss.

        Args:
            pairs: sums, counts and reference sums, each (B, 3).
            totals: of the whole step, by which this share is divided.
        """
        gains = pairs.gains
        chosen, rejected = self.beta * gains.chosen, self.beta * gains.rejected
        loss = sigmoid_loss(chosen - rejected, self.label_smoothing).sum() / totals.pairs
        metrics = response_metrics(pairs) | reward_metrics(chosen, rejected)
        return Terms(loss, {"preference_loss": loss.detach()}, metrics)
