"""Making one token cheap: products with few rows, adapters of a mixed batch. Floor 1.

Everything here changes the time of a forward pass and not its result; tests/models/test_decode.py
compares with plain PEFT.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby

import torch
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional as F

from orpo_qlora.models.sampling import BASE

FEW_ROWS = 8

Span = tuple[int, int, str]
"""First row, row after the last, adapter name."""


class FewRowsLinear(nn.Linear):
    """An `nn.Linear` that multiplies the other way round when it has few rows.

    MKL's kernel for a tall input is slow with two rows: on two Zen 4 cores all products of one
    token of a 135M model take 75 ms as `x @ W.T` and 26 ms as `(W @ x.T).T`.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return `input @ weight.T + bias`."""
        rows = input.numel() // self.in_features
        if rows > FEW_ROWS:
            return F.linear(input, self.weight, self.bias)
        product = torch.mm(self.weight, input.reshape(rows, self.in_features).t()).t()
        if self.bias is not None:
            product = product + self.bias
        return product.view(*input.shape[:-1], self.out_features)


def speed_up_few_rows(model: nn.Module) -> int:
    """Make the plain float32 CPU linears of a frozen model `FewRowsLinear`; return how many.

    The weights stay where they are, tied ones stay tied, and PEFT still sees `nn.Linear`.
    """
    count = 0
    for module in model.modules():
        if type(module) is not nn.Linear:
            continue
        if module.weight.device.type == "cpu" and module.weight.dtype == torch.float32:
            module.__class__ = FewRowsLinear
            count += 1
    return count


@contextmanager
def adapters_by_row(policy: nn.Module, adapters: Sequence[str]) -> Iterator[nn.Module]:
    """Yield the model to call with a batch whose row i goes through adapter i.

    PEFT offers this per call (`adapter_names=`), which registers and removes one hook per LoRA
    layer and builds index lists in each of them: 30 ms per token on 210 layers. Here the adapters
    are put in place once for as long as the batch keeps its rows. Layers of a kind that the short
    path does not cover (4-bit, DoRA, another number type) go through PEFT's own code.
    """
    if not isinstance(policy, PeftModel):
        yield policy
        return
    spans = _spans_of(adapters)
    layers = [module for module in policy.modules() if isinstance(module, LoraLayer)]
    names = [name for _, _, name in spans]
    with ExitStack() as stack:
        if all(_is_plain(layer, names) for layer in layers):
            for layer in layers:
                stack.enter_context(_short_path(layer, spans))
        else:
            # What PeftModel.forward does around every call (PEFT 0.18 to 0.21).
            stack.enter_context(policy._enable_peft_forward_hooks(adapter_names=list(adapters)))
        yield policy.get_base_model()


def _spans_of(adapters: Sequence[str]) -> list[Span]:
    spans = []
    for name, rows in groupby(range(len(adapters)), key=adapters.__getitem__):
        members = list(rows)
        if name != BASE:
            spans.append((members[0], members[-1] + 1, name))
    return spans


def _is_plain(layer: LoraLayer, names: Sequence[str]) -> bool:
    if type(layer) is not LoraLinear or layer.merged or layer.disable_adapters:
        return False
    base = layer.get_base_layer()
    if not isinstance(base, nn.Linear) or type(base) not in (nn.Linear, FewRowsLinear):
        return False
    return all(
        name not in layer.lora_variant and layer.lora_A[name].weight.dtype == base.weight.dtype
        for name in names
        if name in layer.lora_A
    )


@contextmanager
def _short_path(layer: LoraLayer, spans: Sequence[Span]) -> Iterator[None]:
    """Let a LoRA layer add its spans' deltas in place, without PEFT's bookkeeping."""
    present = [
        (first, end, layer.lora_A[name], layer.lora_B[name], layer.scaling[name])
        for first, end, name in spans
        if name in layer.lora_A
    ]
    # An attribute of the instance wins over the class's method; deleting it restores the method.
    layer.forward = _short_forward(layer.get_base_layer(), present)
    try:
        yield
    finally:
        del layer.forward


def _short_forward(
    base: nn.Linear, deltas: Sequence[tuple[int, int, nn.Linear, nn.Linear, float]]
) -> Callable[[Tensor], Tensor]:
    weights = [
        (first, end, a.weight, b.weight, b.bias, scale) for first, end, a, b, scale in deltas
    ]

    def forward(x: Tensor) -> Tensor:
        # x is (R, T, in_features). No dropout: `adapters_by_row` is for evaluation only.
        result = base(x)
        for first, end, a, b, bias, scale in weights:
            rows = x[first:end].reshape(-1, base.in_features)
            # The rows of `result` may lie transposed in memory; a view of them is still one.
            target = result[first:end].view(-1, base.out_features)
            target.t().addmm_(b, torch.mm(a, rows.t()), alpha=scale)
            if bias is not None:
                target.add_(bias, alpha=scale)
        return result

    return forward
