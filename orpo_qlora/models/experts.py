"""Mixture-of-experts models, recognised by structure: which parts get adapters. Floor 1.

transformers 5 keeps the weights of all experts of a layer in one 3-D parameter. PEFT adapts such a
parameter as a whole (`target_parameters`, `lora.ParamWrapper`), and cannot compute a batch whose
rows go through different adapters; bitsandbytes does not quantise it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from torch import nn
from transformers import PreTrainedModel

from orpo_qlora.data.wording import in_bytes, plural
from orpo_qlora.models.generation.sampling import BASE

ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class ExpertWeights:
    """One projection of all experts of one layer: a parameter of shape (experts, ., .)."""

    module: str
    """Name of the module that owns the parameter."""
    parameter: str
    experts: int
    nbytes: int

    @property
    def block(self) -> str:
        """Name of the module around experts and router."""
        return self.module.rpartition(".")[0]


@dataclass(frozen=True)
class LoraTargets:
    """Where LoRA goes: names of linear modules and names of expert parameters."""

    modules: tuple[str, ...] | str
    parameters: tuple[str, ...] = ()


def expert_weights(model: nn.Module) -> list[ExpertWeights]:
    """Return the expert parameters of a base model, or of the base inside a policy."""
    found = []
    for module_name, module in model.named_modules():
        # A convolution's weight is 3-D too.
        if isinstance(module, nn.modules.conv._ConvNd | ParamWrapper):
            continue
        for name, weight in module.named_parameters(recurse=False):
            if weight.ndim == 3 and min(weight.shape) > 1 and weight.is_floating_point():
                owner = module_name.replace(".base_layer", "")
                found.append(ExpertWeights(owner, name, weight.shape[0], weight.nbytes))
    return found


def lora_targets(model: PreTrainedModel, targets: str) -> LoraTargets:
    """Return where a new adapter goes.

    `all-linear` is every linear layer but the output layer, and in a mixture of experts also every
    projection of the experts; routers and the gates of shared experts, which choose and weigh
    experts, are left out. Names of expert parameters may also be given by name.
    """
    experts = expert_weights(model)
    if targets != ALL_LINEAR:
        names = [name.strip() for name in targets.split(",") if name.strip()]
        of_experts = {weights.parameter for weights in experts}
        modules = tuple(name for name in names if name not in of_experts)
        return LoraTargets(modules, tuple(name for name in names if name in of_experts))
    if not experts:
        return LoraTargets(ALL_LINEAR)
    output = model.get_output_embeddings()
    linears = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module is not output
        and not _is_gate(name, module, experts)
    }
    return LoraTargets(tuple(sorted(linears)), _shortest_names(experts))


def _is_gate(name: str, linear: nn.Linear, experts: Sequence[ExpertWeights]) -> bool:
    """Whether a linear layer chooses or weighs experts.

    Such layers sit directly beside the experts, or below their block with an output per expert.
    """
    owner = name.rpartition(".")[0]
    return any(
        owner == weights.block
        or (owner.startswith(f"{weights.block}.") and linear.out_features == weights.experts)
        for weights in experts
    )


def _shortest_names(experts: Sequence[ExpertWeights]) -> tuple[str, ...]:
    """Return the parameters' names from the experts' module on: the same in every layer."""
    return tuple(sorted({f"{e.module.rpartition('.')[2]}.{e.parameter}" for e in experts}))


def can_mix_adapters(policy: nn.Module) -> bool:
    """Whether PEFT can compute a batch whose rows go through different adapters.

    It cannot for adapters on expert weights, nor for DoRA (PEFT 0.21).
    """
    layers = [module for module in policy.modules() if isinstance(module, LoraLayer)]
    return not any(isinstance(layer, ParamWrapper) or layer.lora_variant for layer in layers)


@contextmanager
def one_adapter(policy: PeftModel, adapter: str) -> Iterator[None]:
    """Send whole batches through one adapter, or through the base alone for `BASE`.

    Afterwards the same adapter is active and the same parameters are trainable as before.
    """
    layers = [module for module in policy.modules() if isinstance(module, LoraLayer)]
    before = [(layer, layer._active_adapter, layer._disable_adapters) for layer in layers]
    for layer in layers:
        # PEFT's own switches also change which parameters are trained.
        layer._disable_adapters = adapter == BASE
        if adapter != BASE:
            layer._active_adapter = [adapter]
    try:
        yield
    finally:
        for layer, active, disabled in before:
            layer._active_adapter, layer._disable_adapters = active, disabled


def describe_experts(policy: PeftModel, targets: str) -> str:
    """Return what is adapted and what stays unquantised in a mixture of experts, else nothing.

    Args:
        policy: base with adapter.
        targets: the setting that the adapter was made from.
    """
    base = policy.get_base_model()
    experts = expert_weights(base)
    if not experts:
        return ""
    wrappers = [module for module in base.modules() if isinstance(module, ParamWrapper)]
    adapted = sorted({wrapper.parameter_name for wrapper in wrappers if wrapper.lora_A})
    layers = len({weights.module for weights in experts})
    where = f"{plural(experts[0].experts, 'expert')} in {plural(layers, 'layer')}"
    sentences = [f"no adapters on the {where}"]
    if adapted:
        sentences = [f"adapters on {' and '.join(adapted)} of {where}; the router has none"]
    missing = _without_adapter(base, experts) if targets == ALL_LINEAR else []
    if missing:
        sentences.append(f"PEFT puts none on {', '.join(missing)} outside the experts")
    kind = str(base.dtype).removeprefix("torch.")
    size = in_bytes(sum(weights.nbytes for weights in experts))
    sentences.append(f"The experts' weights are never quantised: {size} in {kind}")
    return f"Experts: {'. '.join(sentences)}."


def _without_adapter(base: PreTrainedModel, experts: Sequence[ExpertWeights]) -> list[str]:
    """Return the names of linear layers that `all-linear` means and PEFT left alone.

    PEFT 0.21 takes `gate_proj`, `up_proj` and `down_proj` of some models for the experts' alone, so
    that dense and shared feed-forwards with layers of that name get no adapter.
    """
    output = base.get_output_embeddings()
    inside = {name for name, module in base.named_modules() if isinstance(module, LoraLayer)}
    return sorted(
        {
            name.rpartition(".")[2]
            for name, module in base.named_modules()
            if isinstance(module, nn.Linear)
            and module is not output
            and not any(name == layer or name.startswith(f"{layer}.") for layer in inside)
            and not _is_gate(name, module, experts)
        }
    )
