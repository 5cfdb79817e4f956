"""Log odds of mean token log-probs, finite in value and gradient (arXiv 2403.07691). Floor 2.

Source: https://github.com/huggingface/trl/blob/v1.16.0/trl/experimental/orpo/orpo_trainer.py,
`log1mexp` and `odds_ratio_loss`. Difference: log(1 − e^x) has one closed-form gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def logp_ceiling(dtype: torch.dtype) -> float:
    """Return the log of the largest number below 1 of a number type.

    Mean log-probs nearer to 0 are clamped to this: the type cannot distinguish them from certainty,
    where odds and their gradient are infinite.
    """
    return -torch.finfo(dtype).eps / 2


class _Log1mExp(torch.autograd.Function):
    """log(1 − e^x) for x < 0, each branch where it is accurate, with one closed-form gradient.

    `torch.where` over two differentiable branches multiplies an infinite slope by zero and
    gives NaN (TRL 1.16 does so for −3e-8 < x ≤ 0); here the slope is −1/expm1(−x), once.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401 - torch's own context
        x = x.clamp(max=logp_ceiling(x.dtype))
        ctx.save_for_backward(x)
        near_zero = x > -0.6931471805599453
        return torch.where(near_zero, (-torch.expm1(x)).log(), torch.log1p(-torch.exp(x)))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # noqa: ANN401
        (x,) = ctx.saved_tensors
        return -grad / torch.expm1(-x)


def log1mexp(x: Tensor) -> Tensor:
    """Return log(1 − e^x), finite in value and gradient.

    Args:
        x: log-probs ≤ 0, any shape. Above `logp_ceiling` they count as the ceiling.
    """
    return _Log1mExp.apply(x)


def log_odds(logps: Tensor) -> Tensor:
    """Return log(p / (1 − p)) of probabilities given as log-probs, any shape (eq. 4)."""
    return logps - log1mexp(logps)


def log_odds_ratio(chosen_logps: Tensor, rejected_logps: Tensor) -> Tensor:
    """Return z, log odds of chosen minus log odds of rejected (eqs. 4 and 5).

    Args:
        chosen_logps: mean token log-probs, shape (B,), ≤ 0.
        rejected_logps: likewise.

    Returns:
        Nats, shape (B,).
    """
    return log_odds(chosen_logps) - log_odds(rejected_logps)
