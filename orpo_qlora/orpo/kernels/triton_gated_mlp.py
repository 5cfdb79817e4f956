"""The elementwise part of a gated feed-forward as Triton kernels: one pass each way. Floor 2.

    forward    h = φ(g) ∘ u
    backward   h = φ(g) ∘ u      ∂u = ∂h ∘ φ(g)      ∂g = ∂h ∘ u ∘ φ′(g)

With φ(g) = g·c(g) is φ′(g) = c + g·c′, and the three activations differ in c alone:

    silu    c = σ(g)                c′ = c·(1 − c)
    gelu    c = ½·(1 + erf(g/√2))   c′ = e^(−g²/2) / √(2π)
    tanh    c = σ(v)                c′ = c·(1 − c)·v′,  v = 2·√(2/π)·(g + 0.044715·g³)

as ½·(1 + tanh(v/2)) = σ(v). Reads and writes of the intermediate width: forward 5 → 3, backward
14 → 6; `activations` passes over it once for each product. Sums and products are float32, so h is
rounded to 16 bits once, not twice. Imports Triton: only `row_kernels` imports this module.
"""

from __future__ import annotations

from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from orpo_qlora.orpo.kernels.activations import Activation

TILE = 1024
"""Numbers of a program: eight a thread, which in 16 bits are one load."""
KINDS = {"silu": 0, "gelu": 1, "gelu_pytorch_tanh": 2}

_SILU: tl.constexpr = tl.constexpr(0)
_GELU: tl.constexpr = tl.constexpr(1)
_ROOT_HALF: tl.constexpr = tl.constexpr(0.7071067811865476)
_DENSITY: tl.constexpr = tl.constexpr(0.3989422804014327)  # 1 / √(2π)
_TANH_SCALE: tl.constexpr = tl.constexpr(1.5957691216057308)  # 2·√(2/π)
_CUBIC: tl.constexpr = tl.constexpr(0.044715)


@triton.jit
def _factor(g: tl.tensor, KIND: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:  # noqa: N803
    """Return c(g) and c′(g)."""
    if KIND == _SILU:
        c = tl.sigmoid(g)
        slope = c * (1.0 - c)
    elif KIND == _GELU:
        c = 0.5 * (1.0 + tl.erf(g * _ROOT_HALF))
        slope = tl.exp(-0.5 * g * g) * _DENSITY
    else:
        c = tl.sigmoid(g * (g * g * _CUBIC + 1.0) * _TANH_SCALE)
        slope = c * (1.0 - c) * (g * g * _CUBIC * 3.0 + 1.0) * _TANH_SCALE
    return c, slope


@triton.jit
def _forward(
    gate: tl.tensor,
    up: tl.tensor,
    product: tl.tensor,
    count: tl.int64,
    KIND: tl.constexpr,  # noqa: N803 - Triton's custom for compile-time constants
    TILE: tl.constexpr,  # noqa: N803
) -> None:
    places = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    inside = places < count
    g = tl.load(gate + places, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + places, mask=inside, other=0.0).to(tl.float32)
    c, _ = _factor(g, KIND)
    tl.store(product + places, (g * c * u).to(product.dtype.element_ty), mask=inside)


@triton.jit
def _backward(  # noqa: PLR0913 - a kernel has no structures
    grad: tl.tensor,
    gate: tl.tensor,
    up: tl.tensor,
    product: tl.tensor,
    up_grad: tl.tensor,
    count: tl.int64,
    KIND: tl.constexpr,  # noqa: N803
    TILE: tl.constexpr,  # noqa: N803
) -> None:
    """Write ∂g over ∂h, which nothing reads again."""
    places = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    inside = places < count
    h_grad = tl.load(grad + places, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(gate + places, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + places, mask=inside, other=0.0).to(tl.float32)
    c, slope = _factor(g, KIND)
    activated = g * c
    tl.store(product + places, (activated * u).to(product.dtype.element_ty), mask=inside)
    tl.store(up_grad + places, (h_grad * activated).to(up_grad.dtype.element_ty), mask=inside)
    gate_grad = h_grad * u * (c + g * slope)
    tl.store(grad + places, gate_grad.to(grad.dtype.element_ty), mask=inside)


def product(gate: Tensor, up: Tensor, kind: int) -> Tensor:
    """Return φ(g) ∘ u, like g; see `activations.Activation`."""
    gate, up = gate.contiguous(), up.contiguous()
    found = torch.empty_like(gate)
    count = gate.numel()
    if count:
        with torch.cuda.device_of(gate):
            _forward[(triton.cdiv(count, TILE),)](gate, up, found, count, KIND=kind, TILE=TILE)
    return found


def gradients(
    product_grad: Tensor, gate: Tensor, up: Tensor, kind: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return φ(g) ∘ u, ∂u and ∂g; overwrites the gradient of the product."""
    grad, gate, up = product_grad.contiguous(), gate.contiguous(), up.contiguous()
    found, up_grad = torch.empty_like(gate), torch.empty_like(up)
    count = gate.numel()
    if count:
        with torch.cuda.device_of(gate):
            _backward[(triton.cdiv(count, TILE),)](
                grad, gate, up, found, up_grad, count, KIND=kind, TILE=TILE
            )
    return found, up_grad, grad


ACTIVATIONS = {
    name: Activation(partial(product, kind=kind), partial(gradients, kind=kind))
    for name, kind in KINDS.items()
}
