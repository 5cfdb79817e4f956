"""ORPO: NLL of the chosen responses plus λ times the odds-ratio loss (arXiv 2403.07691). Floor 2.

Source: https://github.com/huggingface/trl/blob/v1.16.0/trl/experimental/orpo/orpo_trainer.py,
`odds_ratio_loss` and `get_batch_loss_metrics`. Differences: z is called `log_odds_ratio` (TRL logs
log σ(z) under that name), the NLL is averaged over the step instead of the micro-batch, and
log(1 − e^x) has a closed-form gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from orpo_qlora.config import TrainConfig
from orpo_qlora.orpo.objectives.base import PairSums, StepTotals, Terms, nll_share
from orpo_qlora.orpo.objectives.log_odds import log_odds_ratio
from orpo_qlora.orpo.objectives.measurements import response_metrics, reward_metrics


def or_loss(chosen_logps: Tensor, rejected_logps: Tensor) -> Tensor:
    """Return −log σ(z), shape (B,), ≥ 0 (eq. 7).

    Args:
        chosen_logps: mean token log-probs, shape (B,), ≤ 0.
        rejected_logps: likewise.
    """
    return -F.logsigmoid(log_odds_ratio(chosen_logps, rejected_logps))


@dataclass(frozen=True)
class Orpo:
    """Equation 6, loss = NLL + λ · mean(−log σ(z)).

    The NLL covers prompt + chosen (`nll_on="sequence"`, as in the authors' code and TRL) or the
    chosen response alone (`"answer"`, the paper's formula), averaged over the tokens of the step or
    over its pairs.
    """

    lambda_: float
    nll_on: Literal["sequence", "answer"]
    nll_reduction: Literal["token", "pair"]

    @classmethod
    def of(cls, config: TrainConfig) -> Orpo:
        """Return the objective that these settings ask for."""
        return cls(config.lambda_, config.nll_on, config.nll_reduction)

    def __call__(self, pairs: PairSums, totals: StepTotals) -> Terms:
        """Return one micro-step's share of the step's loss.

        Args:
            pairs: sums and counts, each (B, 3). Without rejected responses (λ = 0) the loss has no
                odds-ratio term.
            totals: of the whole step, by which this share is divided.
        """
        chosen, rejected = pairs.chosen, pairs.rejected
        nll = nll_share(pairs, totals, self.nll_on, self.nll_reduction)
        loss, parts = nll, {"nll_loss": nll.detach()}
        if pairs.has_rejected:
            odds_term = or_loss(chosen, rejected).sum() / totals.pairs
            parts["or_loss"] = odds_term.detach()
            loss = nll if self.lambda_ == 0 else nll + self.lambda_ * odds_term
        rewards = reward_metrics(
            self.lambda_ * chosen, self.lambda_ * rejected, has_rejected=pairs.has_rejected
        )
        if pairs.has_rejected:
            # λ = 0 leaves the order of the responses as it is.
            rewards["rewards/accuracies"] = (chosen > rejected).to(chosen.dtype).detach()
        return Terms(loss, parts, response_metrics(pairs) | rewards)
