"""A gated feed-forward with LoRA on its three layers as one differentiable function. Floor 2.

    g = gate(x)      u = up(x)      y = down(φ(g) ∘ u)

Left to autograd, four tensors of the intermediate width are kept for the backward pass: g, φ(g), u
and their product. Here g and u are kept; the other two are recomputed from them, and the gradient
of x is added up in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers.activations import ACT2FN

from orpo_qlora.orpo.kernels.activations import EAGER, Activation, Activations
from orpo_qlora.orpo.kernels.lora_linear import FusedLinears, LoraProduct

PROBED_ROWS = 3
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 4e-3}
"""Largest relative L2 distance from the module's own output that counts as rounding."""


ACTIVATIONS = {type(ACT2FN[name]): name for name in EAGER}
"""The φ that can be fused."""


@dataclass(frozen=True)
class _Gated:
    gate: LoraProduct
    up: LoraProduct
    down: LoraProduct
    activation: Activation

    @property
    def products(self) -> tuple[LoraProduct, LoraProduct, LoraProduct]:
        return self.gate, self.up, self.down


class _GatedFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gated: _Gated, *matrices: Tensor) -> Tensor:  # noqa: ANN401
        matrices = tuple(matrix.to(x.dtype) for matrix in matrices)
        gate, gate_narrow = gated.gate.output(x, *matrices[0:2])
        up, up_narrow = gated.up.output(x, *matrices[2:4])
        product = gated.activation.product(gate, up)
        y, narrow = gated.down.output(product, *matrices[4:6])
        ctx.save_for_backward(x, gate, up, gate_narrow, up_narrow, narrow, *matrices)
        ctx.gated = gated
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, gate, up, gate_narrow, up_narrow, narrow, *matrices = ctx.saved_tensors
        (gate_a, gate_b), (up_a, up_b), (down_a, down_b) = zip(
            matrices[::2], matrices[1::2], strict=True
        )
        gated: _Gated = ctx.gated
        narrow_grad = gated.down.narrow_gradient(grad, down_b)
        product_grad = gated.down.input_gradient(grad, narrow_grad, down_a)
        product, up_grad, gate_grad = gated.activation.gradients(product_grad, gate, up)
        of_down = gated.down.adapter_gradients(grad, narrow_grad, product, narrow)
        del product, product_grad

        narrow_grad = gated.up.narrow_gradient(up_grad, up_b)
        of_up = gated.up.adapter_gradients(up_grad, narrow_grad, x, up_narrow)
        x_grad = None
        if ctx.needs_input_grad[0]:
            x_grad = gated.up.input_gradient(up_grad, narrow_grad, up_a)

        narrow_grad = gated.gate.narrow_gradient(gate_grad, gate_b)
        of_gate = gated.gate.adapter_gradients(gate_grad, narrow_grad, x, gate_narrow)
        if x_grad is not None:
            gated.gate.input_gradient(gate_grad, narrow_grad, gate_a, into=x_grad)
        return x_grad, None, *of_gate, *of_up, *of_down


def fuse_gated_mlps(
    policy: PeftModel, linears: FusedLinears, activations: Activations = EAGER
) -> int:
    """Fuse each gated feed-forward whose three layers are fused; return how many.

    A module that computes something else on random rows keeps its own forward.
    `restore_gated_mlps` undoes it.
    """
    restore_gated_mlps(policy)
    fused = 0
    for module in _candidates(policy):
        gated = _gated_of(module, linears, activations)
        if gated is None:
            continue
        forward = _fused_forward(module, gated)
        if _agree(module.forward, forward, gated):
            module.forward = forward
            fused += 1
    return fused


def restore_gated_mlps(policy: PeftModel) -> None:
    """Restore the model's own forward of every feed-forward."""
    for module in _candidates(policy):
        module.__dict__.pop("forward", None)


@contextmanager
def suspended_gated_mlps(policy: PeftModel) -> Iterator[None]:
    """Restore the model's own forward of every feed-forward until the end of the block."""
    fused = [module for module in _candidates(policy) if "forward" in vars(module)]
    forwards = [module.__dict__.pop("forward") for module in fused]
    try:
        yield
    finally:
        for module, forward in zip(fused, forwards, strict=True):
            module.forward = forward


def _candidates(policy: PeftModel) -> Iterator[nn.Module]:
    names = ("gate_proj", "up_proj", "down_proj", "act_fn")
    return (module for module in policy.modules() if all(hasattr(module, name) for name in names))


def _gated_of(module: nn.Module, linears: FusedLinears, activations: Activations) -> _Gated | None:
    gate, up, down = (
        linears.products.get(layer)
        for layer in (module.gate_proj, module.up_proj, module.down_proj)
    )
    activation = activations.get(ACTIVATIONS.get(type(module.act_fn), ""))
    if gate is None or up is None or down is None or activation is None:
        return None
    return _Gated(gate, up, down, activation)


def _fused_forward(module: nn.Module, gated: _Gated) -> Callable[..., Tensor]:
    usual = module.forward

    def forward(x: Tensor, *args: object, **options: object) -> Tensor:
        if args or options or not all(product.is_needed for product in gated.products):
            return usual(x, *args, **options)
        matrices = [matrix for product in gated.products for matrix in product.matrices]
        with torch.autocast(x.device.type, enabled=False):
            y = _GatedFunction.apply(gated.gate.rows(x), gated, *matrices)
        return y.view(*x.shape[:-1], y.shape[-1])

    return forward


def _agree(usual: Callable[..., Tensor], short: Callable[..., Tensor], gated: _Gated) -> bool:
    base = gated.gate.layer.get_base_layer()
    source = torch.Generator().manual_seed(0)
    x = torch.randn(PROBED_ROWS, base.in_features, generator=source)
    x = x.to(base.weight.device, gated.gate.dtype)
    with torch.no_grad():
        wanted, found = usual(x), short(x)
    if found.shape != wanted.shape:
        return False
    return bool((found - wanted).norm() <= TOLERANCE[gated.gate.dtype] * wanted.norm())
