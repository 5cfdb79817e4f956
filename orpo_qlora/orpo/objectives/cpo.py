"""CPO: DPO's loss with a uniform reference, plus the NLL (arXiv 2401.08417). Floor 2.

Source: https://github.com/huggingface/trl/blob/v1.16.0/trl/experimental/cpo/cpo_trainer.py,
`cpo_loss` with `loss_type="sigmoid"` and `get_batch_loss_metrics`. TRL's NLL is on the chosen
response alone (its ORPO trainer's is on prompt + chosen), and so is this one, whatever `nll_on`
says. TRL averages the NLL over the tokens of the micro-batch, here over those of the step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from orpo_qlora.config import TrainConfig
from orpo_qlora.methods import beta_of
from orpo_qlora.orpo.objectives.base import (
    CHOSEN,
    REJECTED,
    PairSums,
    StepTotals,
    Terms,
    nll_share,
    sigmoid_loss,
)
from orpo_qlora.orpo.objectives.measurements import response_metrics, reward_metrics


@dataclass(frozen=True)
class Cpo:
    """Equations 3 to 5, loss = mean(−log σ(β·(s_w − s_l))) + α·NLL, s the summed log-probs.

    With label smoothing ε, (1 − ε) of the first term is this and ε that of the swapped pair.
    """

    beta: float
    alpha: float
    label_smoothing: float
    nll_reduction: Literal["token", "pair"]

    @classmethod
    def of(cls, config: TrainConfig) -> Cpo:
        """Return the objective that these settings ask for."""
        return cls(beta_of(config), config.cpo_alpha, config.label_smoothing, config.nll_reduction)

    def __call__(self, pairs: PairSums, totals: StepTotals) -> Terms:
        """Return one micro-step's share of the step's loss.

        Args:
            pairs: sums and counts, each (B, 3).
            totals: of the whole step, by which this share is divided.
        """
        chosen, rejected = self.beta * pairs.sums[:, CHOSEN], self.beta * pairs.sums[:, REJECTED]
        preference = sigmoid_loss(chosen - rejected, self.label_smoothing).sum() / totals.pairs
        nll = nll_share(pairs, totals, "answer", self.nll_reduction)
        parts = {"nll_loss": nll.detach(), "preference_loss": preference.detach()}
        metrics = response_metrics(pairs) | reward_metrics(chosen, rejected)
        return Terms(preference + self.alpha * nll, parts, metrics)
