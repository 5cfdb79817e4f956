"""Per-pair metrics that objectives share. Floor 2.

The same measurement has the same name under every objective; only `rewards/*` are an objective's
own. All values are detached and have shape (B,).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from orpo_qlora.orpo.objectives.base import PairSums
from orpo_qlora.orpo.objectives.log_odds import log_odds_ratio


@torch.no_grad()
def response_metrics(pairs: PairSums) -> dict[str, Tensor]:
    """Return mean token log-probs and, where rejected were measured, how they compare."""
    if pairs.has_single:
        return _of_responses("logps", pairs.chosen, pairs.rejected, pairs)
    metrics = {"logps/chosen": pairs.chosen}
    if pairs.has_rejected:
        metrics["log_odds_ratio"] = log_odds_ratio(pairs.chosen, pairs.rejected)
        metrics["logps/rejected"] = pairs.rejected
        metrics["logps/accuracies"] = (pairs.chosen > pairs.rejected).to(pairs.sums.dtype)
    return metrics


OF_PAIRS = ("log_odds_ratio", "logps/accuracies", "rewards/margins", "rewards/accuracies")
"""Metrics that a pair has and a single response has not."""


def _of_responses(
    kind: str, chosen: Tensor, rejected: Tensor, pairs: PairSums
) -> dict[str, Tensor]:
    """Return the values of those responses that there are."""
    has_chosen, has_rejected = pairs.present.bool().T
    return {f"{kind}/chosen": chosen[has_chosen], f"{kind}/rejected": rejected[has_rejected]}


@torch.no_grad()
def compare_responses(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the metrics that compare chosen and rejected responses which are not paired.

    The accuracy is the share of all combinations of a chosen with a rejected response in which the
    chosen one has the higher value.

    Args:
        values: of every response, by metric name.
    """
    found: dict[str, Tensor] = {}
    for kind in ("logps", "rewards"):
        chosen, rejected = (values.get(f"{kind}/{side}") for side in ("chosen", "rejected"))
        if chosen is None or rejected is None or not chosen.numel() or not rejected.numel():
            continue
        below = torch.searchsorted(rejected.sort().values, chosen.contiguous())
        found[f"{kind}/accuracies"] = below.to(chosen.dtype).mean() / rejected.numel()
        if kind == "rewards":
            found["rewards/margins"] = chosen.mean() - rejected.mean()
    return found


@torch.no_grad()
def reward_metrics(
    chosen: Tensor, rejected: Tensor, pairs: PairSums | None = None
) -> dict[str, Tensor]:
    """Return an objective's implicit rewards, each of shape (B,), and what follows from them.

    Args:
        chosen: rewards of the chosen responses.
        rejected: of the rejected ones.
        pairs: of an objective that takes single responses.
    """
    if pairs is not None and pairs.has_single:
        return _of_responses("rewards", chosen, rejected, pairs)
    return {
        "rewards/chosen": chosen.detach(),
        "rewards/rejected": rejected.detach(),
        "rewards/margins": chosen.detach() - rejected.detach(),
        "rewards/accuracies": (chosen > rejected).to(chosen.dtype),
    }
