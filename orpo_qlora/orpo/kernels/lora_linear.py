"""A frozen linear layer and its LoRA adapter as one differentiable product. Floor 2.

PEFT clones the base's output, scales the adapter's and adds the two: four passes over the widest
tensors of the model, forward and backward, for each of its linear layers. Here the adapter is
accumulated into the base's output in place, and into the gradient of the input likewise.

With x (N, in), W (out, in) frozen, A (r, in), B (out, r), scale s and G = ∂loss/∂y:

    y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ      ∂x = G·W + s·(G·B)·A      ∂A = s·(G·B)ᵀ·x      ∂B = s·Gᵀ·(x·Aᵀ)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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

from orpo_qlora.models.sharding import is_sharded, whole


class FrozenWeight:
    """The weight of a frozen layer, unpacked from 4 bits on demand."""

    def __init__(self, linear: nn.Linear) -> None:
        self._linear = linear
        self._kept: Tensor | None = None
        self._scales: Tensor | None = None
        if not isinstance(linear, Linear4bit) or is_sharded(linear.weight):
            return  # beside a part of the weight, unpacked scales would take most of the room
        state = linear.weight.quant_state
        if state.nested:
            # The scales are packed too. Unpacked once they take 1/16 of a byte a weight.
            self._scales = dequantize_blockwise(state.absmax, state.state2).add_(state.offset)

    def values(self, dtype: torch.dtype) -> Tensor:
        """Return the weight, shape (out, in); unpacked on each call unless it is kept."""
        if self._kept is not None:
            return self._kept
        # Read at each call: FSDP replaces the weight of a sharded base as it gathers it.
        packed = whole(self._linear.weight)
        if not isinstance(self._linear, Linear4bit):
            return packed.to(dtype)
        state = getattr(packed, "quant_state", None) or self._linear.quant_state
        if self._scales is None or state.dtype != dtype:
            return dequantize_4bit(packed.data, state).to(dtype)
        return torch.ops.bitsandbytes.dequantize_4bit.default(
            packed.data, self._scales, state.blocksize, state.quant_type, state.shape, dtype
        )

    def keep(self, dtype: torch.dtype) -> None:
        """Hold the unpacked weight from now on: the same numbers, more memory."""
        if isinstance(self._linear, Linear4bit):
            self._kept, self._scales = self.values(dtype), None


@dataclass(frozen=True, eq=False)
class LoraProduct:
    """What one LoRA layer computes, forward and backward, on rows of its input.

    A and B, shapes (r, in) and (out, r), are passed in the type of x.
    """

    layer: LoraLayer
    name: str
    """Of the adapter."""
    weight: FrozenWeight
    dtype: torch.dtype

    @property
    def matrices(self) -> tuple[Tensor, Tensor]:
        """A and B as they are trained."""
        return self.layer.lora_A[self.name].weight, self.layer.lora_B[self.name].weight

    @property
    def is_needed(self) -> bool:
        """Whether the layer would now add this adapter, and no other, to its base."""
        layer = self.layer
        if layer.disable_adapters or layer.merged or layer._forward_pre_hooks:
            return False  # PEFT mixes adapters in a batch through such hooks
        return list(layer.active_adapters) == [self.name]

    @property
    def is_base_only(self) -> bool:
        """Whether the layer would now compute its base alone, as under `disable_adapter`."""
        layer = self.layer
        return layer.disable_adapters and not layer.merged and not layer._forward_pre_hooks

    def rows(self, x: Tensor) -> Tensor:
        """Return an input of any shape as rows of the base's type."""
        return x.reshape(-1, x.shape[-1]).to(self.dtype)

    def output(self, x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Return y (N, out) and x·Aᵀ (N, r)."""
        y, narrow = self.base_output(x), torch.mm(x, a.t())
        y.addmm_(narrow, b.t(), alpha=self._scale)
        return y, narrow

    def base_output(self, x: Tensor) -> Tensor:
        """Return what the base alone gives, (N, out): y of an adapter whose B is zero, exactly."""
        values, bias = self.weight.values(x.dtype), self.layer.get_base_layer().bias
        return torch.mm(x, values.t()) if bias is None else torch.addmm(bias.to(x), x, values.t())

    def narrow_gradient(self, grad: Tensor, b: Tensor) -> Tensor:
        """Return s·G·B, shape (N, r), which the gradients of both x and A need."""
        return torch.mm(grad, b).mul_(self._scale)

    def input_gradient(
        self, grad: Tensor, narrow_grad: Tensor, a: Tensor, into: Tensor | None = None
    ) -> Tensor:
        """Return ∂x, added to `into` in place where that is given."""
        values = self.weight.values(grad.dtype)
        into = torch.mm(grad, values) if into is None else into.addmm_(grad, values)
        return into.addmm_(narrow_grad, a)

    def adapter_gradients(
        self, grad: Tensor, narrow_grad: Tensor, x: Tensor, narrow: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return ∂A and ∂B."""
        return torch.mm(narrow_grad.t(), x), torch.mm(grad.t(), narrow).mul_(self._scale)

    @property
    def _scale(self) -> float:
        return float(self.layer.scaling[self.name])


class _LoraFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor, product: LoraProduct) -> Tensor:  # noqa: ANN401
        a, b = a.to(x.dtype), b.to(x.dtype)
        y, narrow = product.output(x, a, b)
        ctx.save_for_backward(x, narrow, a, b)
        ctx.product = product
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:  # noqa: ANN401
        x, narrow, a, b = ctx.saved_tensors
        product: LoraProduct = ctx.product
        narrow_grad = product.narrow_gradient(grad, b)
        x_grad = None
        if ctx.needs_input_grad[0]:
            x_grad = product.input_gradient(grad, narrow_grad, a)
        # Autograd casts them to the adapter's own type, float32, and adds them up.
        return x_grad, *product.adapter_gradients(grad, narrow_grad, x, narrow), None


@dataclass(frozen=True)
class FusedLinears:
    """The fused LoRA layers of a policy, and the number of those that run PEFT's code."""

    products: Mapping[LoraLayer, LoraProduct]
    left_to_peft: int

    def keep_unpacked(self) -> None:
        """Hold all 4-bit weights unpacked, so that no micro-step unpacks them again."""
        for product in self.products.values():
            product.weight.keep(product.dtype)


def fuse_lora_linears(policy: PeftModel) -> FusedLinears:
    """Replace the forward of each plain LoRA layer of a policy by one fused function.

    Dropout, DoRA, adapter biases and layers of other kinds run PEFT's code, and so does a call
    while adapters are merged or another one is active, and a call that needs a gradient while
    they are disabled. `restore_lora_linears` undoes it.
    """
    restore_lora_linears(policy)
    dtype = policy.get_base_model().dtype
    products = {}
    left = 0
    for layer in _lora_layers(policy):
        name = _only_adapter(layer)
        if name is None:
            left += 1
            continue
        weight = FrozenWeight(layer.get_base_layer())
        products[layer] = LoraProduct(layer, name, weight, dtype)
        layer.forward = _fused_forward(products[layer])
    return FusedLinears(products, left)


def restore_lora_linears(policy: PeftModel) -> None:
    """Restore PEFT's forward of every LoRA layer."""
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


def _fused_forward(product: LoraProduct) -> Callable[..., Tensor]:
    usual, width = product.layer.forward, product.layer.get_base_layer().out_features

    def forward(x: Tensor, *args: object, **options: object) -> Tensor:
        is_base = product.is_base_only and not torch.is_grad_enabled()
        if args or options or not (is_base or product.is_needed):
            return usual(x, *args, **options)
        with torch.autocast(x.device.type, enabled=False):
            if is_base:
                y = product.base_output(product.rows(x))
            else:
                y = _LoraFunction.apply(product.rows(x), *product.matrices, product)
        return y.view(*x.shape[:-1], width)

    return forward
