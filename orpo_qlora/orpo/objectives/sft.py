"""SFT: the NLL of the chosen responses alone; rejected ones are measured, never trained. Floor 2.

Source: https://github.com/huggingface/trl/blob/v1.16.0/trl/trainer/sft_trainer.py, `compute_loss`.
TRL's `completion_only_loss=False` is `nll_on="sequence"` here, `True` is `"answer"`; TRL averages
over the tokens of the micro-batch, here over those of the step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from orpo_qlora.config import TrainConfig
from orpo_qlora.orpo.objectives.base import PairSums, StepTotals, Terms, nll_share
from orpo_qlora.orpo.objectives.measurements import response_metrics


@dataclass(frozen=True)
class Sft:
    """Loss = NLL, on prompt + chosen (`sequence`) or on the chosen response (`answer`)."""

    nll_on: Literal["sequence", "answer"]
    nll_reduction: Literal["token", "pair"]

    @classmethod
    def of(cls, config: TrainConfig) -> Sft:
        """Return the objective that these settings ask for."""
        return cls(config.nll_on, config.nll_reduction)

    def __call__(self, pairs: PairSums, totals: StepTotals) -> Terms:
        """Return one micro-step's share of the step's loss.

        Args:
            pairs: sums and counts, each (B, 3).
            totals: of the whole step, by which this share is divided.
        """
        nll = nll_share(pairs, totals, self.nll_on, self.nll_reduction)
        metrics = response_metrics(pairs)
        if pairs.has_rejected:
            metrics["rewards/accuracies"] = metrics["logps/accuracies"]
        return Terms(nll, {"nll_loss": nll.detach()}, metrics)
