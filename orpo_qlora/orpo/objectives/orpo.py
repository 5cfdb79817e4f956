"""ORPO: NLL of the chosen responses plus λ times the odds-ratio loss (arXiv 2403.07691). Floor 2.

`ratio="probability"` is the ablation of the paper's section 7.1: −log σ of the log probability
ratio a − b instead of the log odds ratio. TRL has no such trainer; at λ = 1 and `nll_on="answer"`
its CPO trainer computes the same with `loss_type="simpo"`, β = 1, γ = 0 and `cpo_alpha` = 1.

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
from orpo_qlora.orpo.objectives.base import PairSums, StepTotals, Terms, nll_share, sigmoid_loss
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
    """Equation 6, loss = NLL + λ · mean(−log σ(z)), z the log odds ratio.

    The NLL covers prompt + chosen (`nll_on="sequence"`, as in the authors' code and TRL) or the
    chosen response alone (`"answer"`, the paper's formula), averaged over the tokens of the step or
    over its pairs.
    """

    lambda_: float
    nll_on: Literal["sequence", "answer"]
    nll_reduction: Literal["token", "pair"]
    ratio: Literal["odds", "probability"] = "odds"

    @classmethod
    def of(cls, config: TrainConfig) -> Orpo:
        """Return the objective that these settings ask for."""
        return cls(config.lambda_, config.nll_on, config.nll_reduction, config.ratio)

    def __call__(self, pairs: PairSums, totals: StepTotals) -> Terms:
        """Return one micro-step's share of the step's loss.

        Args:
            pairs: sums and counts, each (B, 3). Without rejected responses (λ = 0) the loss has no
                odds-ratio term.
            totals: of the whole step, by which this share is divided.
        """
        chosen, rejected = pairs.chosen, pairs.rejected
        nll = nll_share(pairs, totals, self.nll_on, self.nll_reduction)
        parts, metrics = {"nll_loss": nll.detach()}, response_metrics(pairs)
        if not pairs.has_rejected:
            return Terms(nll, parts, metrics | {"rewards/chosen": self.lambda_ * chosen.detach()})
        if self.ratio == "odds":
            name, losses = "or_loss", or_loss(chosen, rejected)
        else:
            name, losses = "preference_loss", sigmoid_loss(chosen - rejected)
        preference = losses.sum() / totals.pairs
        parts[name] = preference.detach()
        metrics |= reward_metrics(self.lambda_ * chosen, self.lambda_ * rejected)
        # As for any λ > 0: λ = 0 does not change the order of the responses.
        metrics["rewards/accuracies"] = metrics["logps/accuracies"]
        return Terms(nll if self.lambda_ == 0 else nll + self.lambda_ * preference, parts, metrics)
