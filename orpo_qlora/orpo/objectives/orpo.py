"""The ORPO objective as pure tensor functions (arXiv 2403.07691). Floor 2.

The loss needs three sums and three counts of token log-probs per pair: prompt, chosen response,
rejected response. How they were computed (packed, padded, cut into micro-steps) is not known here,
so it cannot change the result.

Shapes: B pairs of a micro-step. Log-probs are in nats.

Source: https://github.com/huggingface/trl/blob/v1.16.0/trl/experimental/orpo/orpo_trainer.py,
`odds_ratio_loss` and `get_batch_loss_metrics`. Differences: z is called `log_odds_ratio` (TRL logs
log σ(z) under that name), the NLL is averaged over the step instead of the micro-batch, and
log(1 − e^x) has a closed-form gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

PROMPT, CHOSEN, REJECTED = 0, 1, 2


@dataclass(frozen=True)
class PairSums:
    """Token log-probs of B pairs, summed by part.

    `sums` has shape (B, 3), columns prompt, chosen, rejected; `counts` likewise, the number of
    tokens in each sum. A part that was not computed has count 0.
    """

    sums: Tensor
    counts: Tensor


@dataclass(frozen=True)
class StepTotals:
    """Pairs and NLL tokens of a whole optimizer step; its micro-steps divide by these."""

    pairs: int
    nll_tokens: int


@dataclass(frozen=True)
class Weights:
    """The settings of the objective."""

    lambda_: float
    nll_on: Literal["sequence", "answer"]
    nll_reduction: Literal["token", "pair"]


@dataclass(frozen=True)
class OrpoTerms:
    """One micro-step's share of the step's loss, and per-pair values of shape (B,) for metrics.

    Shares of the micro-steps add up to the step's value; only `loss` carries a gradient.
    """

    loss: Tensor
    nll_loss: Tensor
    or_loss: Tensor
    log_odds_ratio: Tensor
    chosen_logps: Tensor
    rejected_logps: Tensor


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


def or_loss(chosen_logps: Tensor, rejected_logps: Tensor) -> Tensor:
    """Return −log σ(z), shape (B,), ≥ 0 (eq. 7); arguments as for `log_odds_ratio`."""
    return -F.logsigmoid(log_odds_ratio(chosen_logps, rejected_logps))


def nll_token_counts(counts: Tensor, nll_on: str) -> Tensor:
    """Return the number of tokens of each pair's NLL, shape (B,), from counts (B, 3)."""
    if nll_on == "answer":
        return counts[:, CHOSEN]
    return counts[:, PROMPT] + counts[:, CHOSEN]


def orpo_terms(pairs: PairSums, totals: StepTotals, weights: Weights) -> OrpoTerms:
    """Return one micro-step's share of the step's ORPO loss (eq. 6).

    The NLL covers prompt + chosen (`nll_on="sequence"`, as in the authors' code and TRL) or the
    chosen response alone (`"answer"`, the paper's formula), averaged over the tokens of the step or
    over its pairs. The sum over a step's micro-steps does not depend on how it was cut.

    Args:
        pairs: sums and counts, each (B, 3). Rejected responses that were not computed (λ = 0) have
            count 0; their log-probs become NaN and the loss has no odds-ratio term.
        totals: of the whole step, by which this share is divided.
        weights: λ and the choice of NLL.

    Returns:
        Scalars `loss`, `nll_loss`, `or_loss`; per-pair values of shape (B,) for metrics.
    """
    chosen = pairs.sums[:, CHOSEN] / pairs.counts[:, CHOSEN]
    rejected = pairs.sums[:, REJECTED] / pairs.counts[:, REJECTED]
    nll_sums = pairs.sums[:, CHOSEN]
    if weights.nll_on == "sequence":
        nll_sums = nll_sums + pairs.sums[:, PROMPT]
    if weights.nll_reduction == "token":
        nll = -nll_sums.sum() / totals.nll_tokens
    else:
        nll = -(nll_sums / nll_token_counts(pairs.counts, weights.nll_on)).sum() / totals.pairs
    ratio = log_odds_ratio(chosen, rejected)
    odds_term = -F.logsigmoid(ratio).sum() / totals.pairs
    loss = nll if weights.lambda_ == 0 else nll + weights.lambda_ * odds_term
    return OrpoTerms(
        loss=loss,
        nll_loss=nll.detach(),
        or_loss=odds_term.detach(),
        log_odds_ratio=ratio.detach(),
        chosen_logps=chosen.detach(),
        rejected_logps=rejected.detach(),
    )
