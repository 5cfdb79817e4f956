"""Token log-probs through a frozen head, in tiles, without keeping logits. Floor 2.

The gradient of log p(target) with respect to a hidden state is W[target] − softmax(logits)·W times
a number that is known only in backward. The head is frozen, so the vector is formed from the
logits of a tile in forward and scaled in backward: no logits are stored or recomputed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

TILE_BYTES = 64 * 2**20
"""Size of one tile of float32 logits; small enough for caches to help, large enough for GEMM."""
GPU_TILE_BYTES = 256 * 2**20
GPU_TILE_ROWS = 1024
"""A GPU reads the whole output matrix for every tile; with this many rows that no longer counts."""


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
        wide = _wide(hidden.dtype)
        logps = torch.empty(len(hidden), dtype=wide, device=hidden.device)
        slopes = torch.empty_like(hidden) if needs_gradient else None
        vocabulary = head.weight.shape[0]
        rows = min(len(hidden), _tile_rows(vocabulary * wide.itemsize, hidden.device.type))
        # One buffer for all tiles: fresh memory of this size costs as much as filling it.
        buffer = torch.empty(rows, vocabulary, dtype=wide, device=hidden.device)
        for start in range(0, len(hidden), rows):
            tile = slice(start, start + rows)
            wanted = targets[tile, None]
            logits, capped = _logits(hidden[tile], head, buffer[: len(wanted)])
            top = logits.amax(1, keepdim=True)
            picked = logits.gather(1, wanted).sub_(top)
            odds = logits.sub_(top).exp_()  # p times their total
            total = odds.sum(1, keepdim=True)
            logps[tile] = (picked - total.log()).squeeze(1)
            if slopes is None:
                continue
            # p − onehot, times the total. Subtracted in the wide type, before any cast: after one,
            # 1 − p of a confident token would be lost.
            odds.scatter_add_(1, wanted, -total)
            if capped is not None:
                odds.mul_(1 - capped.square())
            slope = torch.mm(odds.to(head.weight.dtype), head.weight)
            torch.mul(slope, (-head.scale / total).to(slope.dtype), out=slopes[tile])
        ctx.save_for_backward(slopes)
        return logps

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        (slopes,) = ctx.saved_tensors
        return slopes * grad[:, None].to(slopes.dtype), None, None


def _tile_rows(row_bytes: int, device: str) -> int:
    """Return the rows of a tile; at least one."""
    if device == "cpu":
        return max(1, TILE_BYTES // row_bytes)
    return max(1, min(GPU_TILE_ROWS, GPU_TILE_BYTES // row_bytes))


@cache
def has_wide_product(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the device returns the float32 sums of a product of 16-bit matrices unrounded.

    Rounded to bfloat16, a logit of 20 is off by up to 0.06.
    """
    if device.type != "cuda":
        return False
    x = torch.ones(16, 16, device=device, dtype=dtype)
    try:
        wide_product(x, x, torch.empty(16, 16, device=device))
    except (RuntimeError, AttributeError):  # torch before 2.8, or a card without it
        return False
    return True


def wide_product(x: Tensor, y: Tensor, into: Tensor) -> Tensor:
    """Write the product of two 16-bit matrices into a float32 one; CUDA only."""
    result: Tensor = torch.ops.aten.mm.dtype_out(x, y, into.dtype, out=into)
    return result


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _logits(hidden: Tensor, head: Head, buffer: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the tile's logits in the buffer, and tanh of the scaled ones if capped."""
    if hidden.dtype == buffer.dtype:
        logits = torch.mm(hidden, head.weight.t(), out=buffer)
    elif has_wide_product(hidden.device, hidden.dtype):
        logits = wide_product(hidden, head.weight.t(), buffer)
    else:
        logits = buffer.copy_(torch.mm(hidden, head.weight.t()))
    if head.bias is not None:
        logits += head.bias
    if head.scale != 1.0:
        logits *= head.scale
    if head.softcap is None:
        return logits, None
    capped = logits.div_(head.softcap).tanh_().clone()
    return logits.mul_(head.softcap), capped


def logits_of(hidden: Tensor, head: Head) -> Tensor:
    """Return the logits of a few hidden states, shape (N, V), float32 or wider; no gradient."""
    wide = _wide(hidden.dtype)
    buffer = torch.empty(len(hidden), head.weight.shape[0], dtype=wide, device=hidden.device)
    return _logits(hidden.to(head.weight.dtype), head, buffer)[0]


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
    """Return the same through any output layer `head`; its logits are kept for the gradient."""
    logits = head(hidden)
    return torch.log_softmax(logits.to(_wide(logits.dtype)), -1).gather(1, targets[:, None])[:, 0]
