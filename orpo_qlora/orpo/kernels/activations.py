"""The elementwise part of a gated feed-forward, h = φ(g) ∘ u, in torch's kernels. Floor 2."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Activation:
    """The elementwise part of a feed-forward with one φ."""

    product: Callable[[Tensor, Tensor], Tensor]
    """From g and u to h = φ(g) ∘ u."""
    gradients: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
    """From ∂h, g and u to h, ∂u and ∂g. Overwrites ∂h, not g and u."""


Backward = Callable[..., Tensor]
"""torch's gradient of an activation: of ∂φ(g) and g, into `grad_input`."""


def _eager(value: Callable[[Tensor], Tensor], backward: Backward) -> Activation:
    """Return φ in one pass of torch for each product; what other kernels are compared with."""

    def product(gate: Tensor, up: Tensor) -> Tensor:
        return value(gate).mul_(up)

    def gradients(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        activated = value(gate)
        found = activated * up
        up_grad = activated.mul_(grad)
        grad.mul_(up)
        return found, up_grad, backward(grad, gate, grad_input=grad)

    return Activation(product, gradients)


def _gelu(approximate: str) -> Activation:
    return _eager(
        partial(F.gelu, approximate=approximate),
        partial(torch.ops.aten.gelu_backward.grad_input, approximate=approximate),
    )


Activations = Mapping[str, Activation]
"""By φ, as transformers names it."""
EAGER: Activations = {
    "silu": _eager(F.silu, torch.ops.aten.silu_backward.grad_input),
    "gelu": _gelu("none"),
    "gelu_pytorch_tanh": _gelu("tanh"),
}
