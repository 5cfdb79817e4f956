"""Per-pair metrics that objectives share. Floor 2.

The same measurement has the same name under every objective; only `rewards/*` are an objective's
own. All values are detached and have shape (B,).
"""

from __future__ import annotations

import torch
from torch import Tensor

from orpo_qlora.orpo.objectives.base import PairSums
from orpo_qlora.orpo.objectives.log_odds import log_odds_ratio


@torch.no_grad()
def response_metrics(pairs: PairSums) -> dict[str, Tensor]:
    """Return mean token log-probs and, where rejected were measured, how they compare."""
    metrics = {"logps/chosen": pairs.chosen}
    if pairs.has_rejected:
        metrics["log_odds_ratio"] = log_odds_ratio(pairs.chosen, pairs.rejected)
        metrics["logps/rejected"] = pairs.rejected
        metrics["logps/accuracies"] = (pairs.chosen > pairs.rejected).to(pairs.sums.dtype)
    return metrics


@torch.no_grad()
def reward_metrics(chosen: Tensor, rejected: Tensor) -> dict[str, Tensor]:
    """Return an objective's implicit rewards, each of shape (B,), and what follows from them."""
    return {
        "rewards/chosen": chosen.detach(),
        "rewards/rejected": rejected.detach(),
        "rewards/margins": chosen.detach() - rejected.detach(),
        "rewards/accuracies": (chosen > rejected).to(chosen.dtype),
    }
