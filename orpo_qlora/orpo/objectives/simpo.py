"""SimPO: mean log-probs as rewards, a margin, no reference (arXiv 2405.14734). Floor 2.

Source: https://github.com/huggingface/trl/blob/v1.16.0/trl/experimental/cpo/cpo_trainer.py,
`cpo_loss` with `loss_type="simpo"` and `cpo_alpha=0`; TRL's `simpo_gamma` is `gamma`.
"""

from __future__ import annotations

from dataclasses import dataclass

from orpo_qlora.config import TrainConfig
from orpo_qlora.methods import beta_of
from orpo_qlora.orpo.objectives.base import PairSums, StepTotals, Terms, sigmoid_loss
from orpo_qlora.orpo.objectives.measurements import response_metrics, reward_metrics


@dataclass(frozen=True)
class SimPO:
    """Equation 6, loss = mean(−log σ(β·(a − b) − γ)), a and b the mean token log-probs.

    With label smoothing ε, (1 − ε) of the loss is this and ε that of the swapped pair, as in TRL.
    """

    beta: float
    gamma: float
    label_smoothing: float

    @classmethod
    def of(cls, config: TrainConfig) -> SimPO:
        """Return the objective that these settings ask for."""
        return cls(beta_of(config), config.gamma, config.label_smoothing)

    def __call__(self, pairs: PairSums, totals: StepTotals) -> Terms:
        """Return one micro-step's share of the step's loss.

        Args:
            pairs: sums and counts, each (B, 3).
            totals: of the whole step, by which this share is divided.
        """
        chosen, rejected = self.beta * pairs.chosen, self.beta * pairs.rejected
        margins = chosen - rejected - self.gamma
        loss = sigmoid_loss(margins, self.label_smoothing).sum() / totals.pairs
        metrics = response_metrics(pairs) | reward_metrics(chosen, rejected)
        return Terms(loss, {"preference_loss": loss.detach()}, metrics)
