"""KTO: each response is desirable or undesirable on its own (arXiv 2402.01306). Floor 2.

Trains on single labelled responses. A pair counts as two of them: its chosen response is desirable
and its rejected one undesirable.

Source: https://github.com/huggingface/trl/blob/v1.16.0/trl/trainer/kto_trainer.py, `_compute_loss`
with `loss_type="kto"` or `"apo_zero_unpaired"`. Difference: the estimate of the KL term joins each
prompt with the response to another prompt; TRL rotates the responses inside each batch, also
between rows of one prompt, here once over the data set in row order (`loss.mismatch`), so that the
reference's log-probs of them can be kept too. In a step of the whole data set, each row with a
prompt of its own, both are the same.
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
    """Equations 7 and 8: the mean, over all responses, of the terms below.

    desirable_weight · (1 − σ(β·(g_w − k))) and undesirable_weight · (1 − σ(β·(k − g_l))).

    g is the summed log-prob minus the reference's; k ≥ 0 is the mean of g over the mismatched
    responses of the step, without gradient. Without a KL term k is 0, which is APO-zero for single
    responses (arXiv 2408.06266, equation 7).
    """

    beta: float
    desirable_weight: float
    undesirable_weight: float
    has_kl: bool = True

    @classmethod
    def of(cls, config: TrainConfig) -> Kto:
        """Return the objective that these settings ask for."""
        weights = config.desirable_weight, config.undesirable_weight
        return cls(beta_of(config), *weights, has_kl=config.kto_loss == "kto")

    def __call__(self, pairs: PairSums, totals: StepTotals) -> Terms:
        """Return one micro-step's share of the step's loss.

        Args:
            pairs: sums, counts and reference sums, each (B, 3).
            totals: of the whole step; `drift` is k.
        """
        gains, kl = pairs.gains, totals.drift
        if kl is None and self.has_kl:
            raise ValueError("KTO needs the mismatched responses' log-probs")
        shift = 0.0 if kl is None else kl
        chosen = 1 - torch.sigmoid(self.beta * (gains.chosen - shift))
        rejected = 1 - torch.sigmoid(self.beta * (shift - gains.rejected))
        has_chosen, has_rejected = pairs.present.T
        weighted = (
            self.desirable_weight * has_chosen * chosen
            + self.undesirable_weight * has_rejected * rejected
        )
        loss = weighted.sum() / totals.responses
        rewards = reward_metrics(self.beta * gains.chosen, self.beta * gains.rejected, pairs)
        metrics = response_metrics(pairs) | rewards
        if kl is not None:
            metrics["kl"] = kl.expand_as(gains.chosen)
        return Terms(loss, {"preference_loss": loss.detach()}, metrics)
