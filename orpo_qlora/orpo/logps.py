"""Token log-probs through a frozen head, in tiles, without keeping logits. Floor 2.

The gradient of log p(target) with respect to a hidden state is W[target] − softmax(logits)·W times
a number that is known only in backward. The head is frozen, so the vector can be formed while the
logits of a tile are at hand and scaled later: no logits stored, none recomputed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

TILE_BYTES = 64 * 2**20
"""Size of one tile of float32 logits; small enough for caches to help, large enough for GEMM."""


@dataclass(frozen=True)
class Head:
    """A frozen output layer: logits = cap · tanh(scale · (hidden · Wᵀ + bias) / cap)."""

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None


def frozen_head(model: PreTrainedModel) -> Head | None:
    """Return the output layer of a causal LM, or None where it is trained, adapted or unusual."""
    linear = model.get_output_embeddings()
    if type(linear) is not nn.Linear or any(p.requires_grad for p in linear.parameters()):
        return None
    config = model.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1.0
    divisor = getattr(config, "logits_scaling", None) or 1.0
    return Head(
        linear.weight,
        linear.bias,
        scale / divisor,
        getattr(config, "final_logit_softcapping", None),
    )


class _FrozenHeadLogps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, head: Head) -> Tensor:  # noqa: ANN401
        needs_gradient = ctx.needs_input_grad[0]
        logps = torch.empty(len(hidden), dtype=_wide(hidden.dtype), device=hidden.device)
        slopes = torch.empty_like(hidden) if needs_gradient else None
        vocabulary = head.weight.shape[0]
        rows = max(1, TILE_BYTES // (vocabulary * logps.element_size()))
        for start in range(0, len(hidden), rows):
            tile = slice(start, start + rows)
            logits, capped = _logits(hidden[tile], head)
            picked = logits.gather(1, targets[tile, None])
            log_total = logits.logsumexp(1, keepdim=True)
            logps[tile] = (picked - log_total).squeeze(1)
            if slopes is None:
                continue
            slope = logits.sub_(log_total).exp_().neg_()
            slope.scatter_add_(1, targets[tile, None], torch.ones_like(picked))
            if capped is not None:
                slope.mul_(1 - capped.square())
            if head.scale != 1.0:
                slope.mul_(head.scale)
            # The one-hot is subtracted before this cast: after it, 1 − p of a confident token
            # would be lost.
            torch.mm(slope.to(head.weight.dtype), head.weight, out=slopes[tile])
        ctx.save_for_backward(slopes)
        return logps

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        (slopes,) = ctx.saved_tensors
        return slopes * grad[:, None].to(slopes.dtype), None, None


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _logits(hidden: Tensor, head: Head) -> tuple[Tensor, Tensor | None]:
    """Return the tile's logits in float32 or wider, and tanh of the scaled ones if capped."""
    logits = torch.mm(hidden, head.weight.t()).to(_wide(hidden.dtype))
    if head.bias is not None:
        logits += head.bias
    if head.scale != 1.0:
        logits *= head.scale
    if head.softcap is None:
        return logits, None
    capped = logits.div_(head.softcap).tanh_()
    return capped * head.softcap, capped


def token_logps(hidden: Tensor, targets: Tensor, head: Head) -> Tensor:
    """Return log p(target) for each hidden state, in nats, float32 or wider.

    Args:
        hidden: final hidden states after the last norm, shape (N, H).
        targets: token ids, shape (N,).
        head: the frozen output layer, weight (V, H).

    Gradients flow to `hidden`. Memory beside the result: one tile of logits, and a second tensor
    of the size of `hidden`.
    """
    return _FrozenHeadLogps.apply(hidden.to(head.weight.dtype), targets, head)


def token_logps_of_trained_head(hidden: Tensor, targets: Tensor, head: nn.Module) -> Tensor:
    """Return the same through any output layer, logits kept for its gradient."""
    logits = head(hidden)
    return torch.log_softmax(logits.to(_wide(logits.dtype)), -1).gather(1, targets[:, None])[:, 0]
