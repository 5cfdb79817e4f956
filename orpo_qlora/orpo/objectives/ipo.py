"""IPO: the squared distance of a log-ratio margin to a target (arXiv 2310.12036). Floor 2.

Source: https://github.com/huggingface/trl/blob/v1.16.0/trl/trainer/dpo_trainer.py, `_compute_loss`
with `loss_type="ipo"`. The paper's log-ratios are sums; TRL and this file divide each by the tokens
of its response, as the authors did for their results. The rewards that are logged are sums, as in
TRL. β is the paper's τ.
"""

from __future__ import annotations

from dataclasses import dataclass

from orpo_qlora.config import TrainConfig
from orpo_qlora.methods import beta_of
from orpo_qlora.orpo.objectives.base import CHOSEN, REJECTED, PairSums, StepTotals, Terms
from orpo_qlora.orpo.objectives.measurements import response_metrics, reward_metrics


@dataclass(frozen=True)
class Ipo:
    """Equation 17, loss = mean((g_w/n_w − g_l/n_l − 1/(2β))²), n the tokens of a response.

    g is the summed log-prob minus the reference's.
    """

    beta: float

    @classmethod
    def of(cls, config: TrainConfig) -> Ipo:
        """Return the objective that these settings ask for."""
        return cls(beta_of(config))

    def __call__(self, pairs: PairSums, totals: StepTotals) -> Terms:
        """Return one micro-step's share of the step's loss.

        Args:
            pairs: sums, counts and reference sums, each (B, 3).
            totals: of the whole step, by which this share is divided.
        """
        gains = pairs.gains
        chosen = gains.chosen / pairs.counts[:, CHOSEN]
        rejected = gains.rejected / pairs.counts[:, REJECTED]
        distance = chosen - rejected - 1 / (2 * self.beta)
        loss = distance.square().sum() / totals.pairs
        rewards = reward_metrics(self.beta * gains.chosen, self.beta * gains.rejected)
        return Terms(loss, {"preference_loss": loss.detach()}, response_metrics(pairs) | rewards)
