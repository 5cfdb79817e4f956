"""A frozen linear layer and its LoRA adapter as one differentiable product. Floor 2.

PEFT clones the base's output, scales the adapter's and adds the two: four passes over the widest
tensors of the model, forward and backward, for each of its linear layers. Here the adapter is added
into the base's output as it stands, and into the gradient of the input the same way.

With x (N, in), W (out, in) frozen, A (r, in), B (out, r), scale s and G = ∂loss/∂y:

    y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ      ∂x = G·W + s·(G·B)·A      ∂A = s·(G·B)ᵀ·x      ∂B = s·Gᵀ·(x·Aᵀ)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit, dequantize_blockwise
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.bnb import Linear4bit as LoraLinear4bit
from torch import Tensor, nn


class FrozenWeight:
    """The weight of a frozen layer as numbers, unpacked from 4 bits when asked for."""

    def __init__(self, linear: nn.Linear) -> None:
        self._linear = linear
        self._kept: Tensor | None = None
        self._scales: Tensor | None = None
        if isinstance(linear, Linear4bit) and linear.weight.quant_state.nested:
            state = linear.weight.quant_state
            # The scales are packed too. Unpacked once they take 1/16 of a byte a weight.
            self._scales = dequantize_blockwise(state.absmax, state.state2).add_(state.offset)

    def values(self, dtype: torch.dtype) -> Tensor:
        """Return the weight, shape (out, in); unpacked anew each time unless it is kept."""
        if self._kept is not None:
            return self._kept
        if not isinstance(self._linear, Linear4bit):
            return self._linear.weight.to(dtype)
        packed = self._linear.weight
        state = packed.quant_state
        if self._scales is None or state.dtype != dtype:
            return dequantize_4bit(packed.data, state).to(dtype)
        return torch.ops.bitsandbytes.dequantize_4bit.default(
            packed.data, self._scales, state.blocksize, state.quant_type, state.shape, dtype
        )

    def keep(self, dtype: torch.dtype) -> None:
        """Hold the unpacked weight from now on: the same numbers, more memory."""
        if isinstance(self._linear, Linear4bit):
            self._kept = self.values(dtype)


class _LoraProduct(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0913 - autograd hands tensors over one by one
        ctx: Any,  # noqa: ANN401 - torch's own context
        x: Tensor,
        a: Tensor,
        b: Tensor,
        bias: Tensor | None,
        weight: FrozenWeight,
        scale: float,
    ) -> Tensor:
        dtype = x.dtype
        a, b = a.to(dtype), b.to(dtype)
        values = weight.values(dtype)
        y = torch.mm(x, values.t()) if bias is None else torch.addmm(bias.to(dtype), x, values.t())
        narrow = torch.mm(x, a.t())
        y.addmm_(narrow, b.t(), alpha=scale)
        ctx.save_for_backward(x, narrow, a, b)
        ctx.weight, ctx.scale = weight, scale
        return y

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401
        grad: Tensor,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None, None]:
        x, narrow, a, b = ctx.saved_tensors
        narrow_grad = torch.mm(grad, b).mul_(ctx.scale)
        x_grad = None
        if ctx.needs_input_grad[0]:
            x_grad = torch.mm(grad, ctx.weight.values(grad.dtype))
            x_grad.addmm_(narrow_grad, a)
        a_grad = torch.mm(narrow_grad.t(), x)
        b_grad = torch.mm(grad.t(), narrow).mul_(ctx.scale)
        # Of the adapter's own type, float32, for autograd to add up.
        return x_grad, a_grad, b_grad, None, None, None


@dataclass(frozen=True)
class FusedLinears:
    """The LoRA layers of a policy that go the short way, and those that go PEFT's."""

    weights: tuple[FrozenWeight, ...]
    left_to_peft: int
    dtype: torch.dtype

    def keep_unpacked(self) -> None:
        """Hold all 4-bit weights unpacked, so that no micro-step unpacks them again."""
        for weight in self.weights:
            weight.keep(self.dtype)


def fuse_lora_linears(policy: PeftModel) -> FusedLinears:
    """Let each plain LoRA layer of a policy compute its product in one go, from now on.

    Dropout, DoRA, adapter biases and layers of other kinds go PEFT's way, and so does a call while
    adapters are disabled, merged or others than the one active now. `restore_lora_linears` undoes
    it.
    """
    restore_lora_linears(policy)
    dtype = policy.get_base_model().dtype
    weights = []
    left = 0
    for layer in _lora_layers(policy):
        name = _only_adapter(layer)
        if name is None:
            left += 1
            continue
        weight = FrozenWeight(layer.get_base_layer())
        weights.append(weight)
        layer.forward = _short_forward(layer, name, weight, dtype)
    return FusedLinears(tuple(weights), left, dtype)


def restore_lora_linears(policy: PeftModel) -> None:
    """Let every LoRA layer compute as PEFT wrote it."""
    for layer in _lora_layers(policy):
        layer.__dict__.pop("forward", None)


def _lora_layers(policy: PeftModel) -> Iterator[LoraLayer]:
    return (module for module in policy.modules() if isinstance(module, LoraLayer))


def _only_adapter(layer: LoraLayer) -> str | None:
    """Return the name of the adapter where base and adapter are of the plain kind."""
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    if type(layer) not in (LoraLinear, LoraLinear4bit) or len(names) != 1:
        return None
    base, name = layer.get_base_layer(), names[0]
    is_plain = (
        type(base) in (nn.Linear, Linear4bit)
        and name not in layer.lora_variant
        and isinstance(layer.lora_dropout[name], nn.Identity)
        and layer.lora_B[name].bias is None
    )
    return name if is_plain else None


def _short_forward(
    layer: LoraLayer, name: str, weight: FrozenWeight, dtype: torch.dtype
) -> Callable[..., Tensor]:
    base, usual = layer.get_base_layer(), layer.forward
    a, b, scale = layer.lora_A[name], layer.lora_B[name], layer.scaling[name]

    def forward(x: Tensor, *args: object, **options: object) -> Tensor:
        if args or options or layer.disable_adapters or layer.merged:
            return usual(x, *args, **options)
        if layer.active_adapters != [name]:
            return usual(x)
        with torch.autocast(x.device.type, enabled=False):
            rows = x.reshape(-1, base.in_features).to(dtype)
            y = _LoraProduct.apply(rows, a.weight, b.weight, base.bias, weight, scale)
        return y.view(*x.shape[:-1], base.out_features)

    return forward
