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
    """Return mean token log-probs, and the log odds ratio where rejected were measured."""
    metrics = {"logps/chosen": pairs.chosen}
    if pairs.has_rejected:
        metrics["log_odds_ratio"] = log_odds_ratio(pairs.chosen, pairs.rejected)
        metrics["logps/rejected"] = pairs.rejected
    return metrics


@torch.no_grad()
def reward_metrics(chosen: Tensor, rejected: Tensor, *, has_rejected: bool) -> dict[str, Tensor]:
    """Return an objective's implicit rewards, each of shape (B,), and what follows from them."""
    metrics = {"rewards/chosen": chosen.detach()}
    if has_rejected:
        metrics["rewards/rejected"] = rejected.detach()
        metrics["rewards/margins"] = chosen.detach() - rejected.detach()
        metrics["rewards/accuracies"] = (chosen > rejected).to(chosen.dtype)
    return metrics
