"""KTO: each response is desirable or undesirable on its own (arXiv 2402.01306). Floor 2.

Every pair counts as two examples, its chosen response as desirable and its rejected one as
undesirable, so a step always mixes both.

Source: https://github.com/huggingface/trl/blob/v1.16.0/trl/trainer/kto_trainer.py, `_compute_loss`
with `loss_type="kto"`. Difference: the estimate of the KL term pairs each prompt with the responses
of another prompt; TRL rotates the responses inside each batch, here once over the data set in row
order (`loss.mismatch`), so that the reference's log-probs of them can be kept too. In a step of the
whole data set both are the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from orpo_qlora.config import TrainConfig
from orpo_qlora.methods import beta_of
from orpo_qlora.orpo.objectives.base import PairSums, StepTotals, Terms
from orpo_qlora.orpo.objectives.measurements import response_metrics, reward_metrics


@dataclass(frozen=True)
class Kto:
    """Equations 7 and 8: the mean, over both responses of all pairs, of the terms below.

    desirable_weight · (1 − σ(β·(g_w − k))) and undesirable_weight · (1 − σ(β·(k − g_l))).

    g is the summed log-prob minus the reference's; k ≥ 0 is the mean of g over the mismatched
    responses of the step, without gradient.
    """

    beta: float
    desirable_weight: float
    undesirable_weight: float

    @classmethod
    def of(cls, config: TrainConfig) -> Kto:
        """Return the objective that these settings ask for."""
        return cls(beta_of(config), config.desirable_weight, config.undesirable_weight)

    def __call__(self, pairs: PairSums, totals: StepTotals) -> Terms:
        """Return one micro-step's share of the step's loss.

        Args:
            pairs: sums, counts and reference sums, each (B, 3).
            totals: of the whole step; `drift` is k.
        """
        gains, kl = pairs.gains, totals.drift
        if kl is None:
            raise ValueError("KTO needs the mismatched responses' log-probs")
        chosen = 1 - torch.sigmoid(self.beta * (gains.chosen - kl))
        rejected = 1 - torch.sigmoid(self.beta * (kl - gains.rejected))
        weighted = self.desirable_weight * chosen + self.undesirable_weight * rejected
        loss = weighted.sum() / (2 * totals.pairs)
        rewards = reward_metrics(self.beta * gains.chosen, self.beta * gains.rejected)
        metrics = response_metrics(pairs) | rewards | {"kl": kl.expand_as(gains.chosen)}
        return Terms(loss, {"preference_loss": loss.detach()}, metrics)
