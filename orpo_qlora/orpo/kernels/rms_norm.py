"""RMS norms with a frozen gain that keep only their input for the backward pass. Floor 2.

    r = 1 / √(mean(x²) + ε)      y = r·x ∘ w      ∂x = r·(h − x·r²·mean(h ∘ x)),  h = G ∘ w

The models' own code keeps the normalised x beside x, and passes over the row four times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

EPSILON_NAMES = ("variance_epsilon", "eps")
PROBED_ROWS = 3
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}
"""Largest relative L2 distance from the module's own output that counts as rounding."""


@dataclass(frozen=True)
class NormKernel:
    """The norm and its gradient on rows of any shape (..., H); sums are float32 at least."""

    forward: Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]
    """From x, w (H) and ε to y, like x, and r (..., 1)."""
    backward: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    """From G, x, r and w to ∂x, like x."""


def _forward(x: Tensor, gain: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    inverse = length.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
    return (wide * inverse).mul_(gain).to(x.dtype), inverse


def _backward(grad: Tensor, x: Tensor, inverse: Tensor, gain: Tensor) -> Tensor:
    wide = x.to(inverse.dtype)
    scaled = grad * gain
    shared = (scaled * wide).mean(-1, keepdim=True).mul_(inverse.pow(3))
    return scaled.mul_(inverse).addcmul_(wide, shared, value=-1).to(x.dtype)


EAGER = NormKernel(_forward, _backward)
"""Runs everywhere; what other kernels are compared with."""


class _RmsNormFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, epsilon: float, kernel: NormKernel) -> Tensor:  # noqa: ANN401
        y, inverse = kernel.forward(x, gain, epsilon)
        ctx.save_for_backward(x, inverse)
        ctx.gain, ctx.kernel = gain, kernel
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401
        x, inverse = ctx.saved_tensors
        return ctx.kernel.backward(grad, x, inverse, ctx.gain), None, None, None


def fuse_rms_norms(model: nn.Module, kernel: NormKernel = EAGER) -> int:
    """Fuse each frozen RMS norm of a model; return how many.

    A norm that computes something else on random rows keeps its own forward. `restore_rms_norms`
    undoes it.
    """
    restore_rms_norms(model)
    fused = 0
    for norm in _norms(model):
        forward = next((f for f in _fused_forwards(norm, kernel) if _agree(norm, f)), None)
        if forward is not None:
            norm.forward = forward
            fused += 1
    return fused


def restore_rms_norms(model: nn.Module) -> None:
    """Restore the model's own forward of every norm."""
    for norm in _norms(model):
        norm.__dict__.pop("forward", None)


def _norms(model: nn.Module) -> Iterator[nn.Module]:
    return (module for module in model.modules() if type(module).__name__.endswith("RMSNorm"))


def _fused_forwards(norm: nn.Module, kernel: NormKernel) -> Iterator[Callable[[Tensor], Tensor]]:
    """Yield both conventions for the weight: the gain itself, or the gain minus 1 (Gemma)."""
    weight = getattr(norm, "weight", None)
    epsilon = next((getattr(norm, name) for name in EPSILON_NAMES if hasattr(norm, name)), None)
    if weight is None or epsilon is None or weight.requires_grad:
        return
    wide = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
    for gain in (wide, 1 + wide):
        yield partial(_normed, gain=gain, epsilon=epsilon, kernel=kernel)


def _normed(x: Tensor, gain: Tensor, epsilon: float, kernel: NormKernel) -> Tensor:
    return _RmsNormFunction.apply(x, gain, epsilon, kernel)


def _agree(norm: nn.Module, forward: Callable[[Tensor], Tensor]) -> bool:
    weight = norm.get_parameter("weight")
    source = torch.Generator().manual_seed(0)
    x = torch.randn(PROBED_ROWS, len(weight), generator=source).to(weight)
    with torch.no_grad():
        wanted, found = norm(x), forward(x)
    if found.dtype != wanted.dtype:
        return False
    return bool((found - wanted).norm() <= TOLERANCE[x.dtype] * wanted.norm())
