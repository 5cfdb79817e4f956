"""Base model and tokenizer from disk or hub, and adapters on top: the policy. Floor 1."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from orpo_qlora.config import TrainConfig
from orpo_qlora.data.wording import plural
from orpo_qlora.errors import (
    ModelNotFound,
    OutOfMemory,
    UnsupportedModel,
)
from orpo_qlora.models.devices.hardware import Arithmetic, choose_arithmetic, memory_errors
from orpo_qlora.models.experts import lora_targets
from orpo_qlora.models.grouped_keys import repeat_keys_where_needed
from orpo_qlora.models.load_errors import DOWNLOAD_AGAIN, loading_errors
from orpo_qlora.models.templates import tokenizers
from orpo_qlora.models.trust import refuse_unsafe_adapter
from orpo_qlora.models.weights import find

log = logging.getLogger(__name__)

ADAPTER = "default"
ADAPTER_HINT = "The adapter or its base was changed since; choose another run, or train it again."


@dataclass(frozen=True)
class Base:
    """A frozen base model with its tokenizer, and the arithmetic it was loaded for."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    arithmetic: Arithmetic
    folder: Path


def load_base(
    model: str,
    revision: str = "",
    *,
    quantization: Literal["nf4", "none"] = "nf4",
    compute_dtype: str = "auto",
    dequantized: bool = False,
    chat_template: str = "auto",
    on_cpu: bool = False,
) -> Base:
    """Return a frozen base model and its tokenizer.

    Args:
        model: catalogue name, hub id or folder.
        revision: branch, tag or commit on the hub.
        quantization: `nf4` is 4-bit NormalFloat with double quantisation.
        compute_dtype: a number type's name, or `auto` for the best one of this hardware.
        dequantized: hold the 4-bit weights unpacked: same numbers, more memory, faster tokens on
            a CPU.
        chat_template: value of the setting.
        on_cpu: load the weights there, whatever computes; `sharding.shard` moves them.

    Raises:
        ModelError: see `find.find_weights` and `load_tokenizer`.
        OutOfMemory: the weights do not fit.
    """
    arithmetic = choose_arithmetic(compute_dtype)
    folder = find.find_weights(model, revision)
    tokenizer = tokenizers.load_tokenizer(folder, chat_template)
    loaded = load_weights(folder, arithmetic, quantization, on_cpu=on_cpu)
    if dequantized and quantization == "nf4":
        loaded = loaded.dequantize(arithmetic.dtype)
    return Base(loaded, tokenizer, arithmetic, folder)


def load_weights(
    folder: Path,
    arithmetic: Arithmetic,
    quantization: Literal["nf4", "none"] = "nf4",
    *,
    on_cpu: bool = False,
) -> PreTrainedModel:
    """Return the frozen model of a folder with safetensors weights.

    Raises:
        UnsupportedModel: transformers cannot load it, or some weights are missing.
        OutOfMemory: the weights do not fit.
    """
    quantized = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=arithmetic.dtype,
    )
    device = "cpu" if on_cpu else arithmetic.device
    several = "" if device == "cpu" else ", or split it over several GPUs (shard_base)"
    too_large = OutOfMemory(
        f"{folder.name} does not fit into the memory of this {device}.",
        hint=f"Choose a smaller model, or 4-bit base weights{several}.",
    )
    with loading_errors(f"{folder.name} cannot be loaded"), memory_errors(lambda: too_large):
        loaded, found = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=arithmetic.dtype,
            quantization_config=quantized if quantization == "nf4" else None,
            device_map={"": device},
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    _refuse_incomplete(folder, found["missing_keys"])
    loaded.requires_grad_(False)
    _keep_trainable(loaded)
    if repeat_keys_where_needed(loaded):
        log.info("attention repeats shared keys: this GPU has no flash kernel for %s", loaded.dtype)
    return loaded


def _refuse_incomplete(folder: Path, missing: Collection[str]) -> None:
    """Refuse a base of which some weights are in no file; transformers makes them up at random."""
    if missing:
        first = sorted(missing)[0]
        others = f" and {plural(len(missing) - 1, 'other')}" if len(missing) > 1 else ""
        log.info("weights that are in no file of %s: %s", folder, ", ".join(sorted(missing)))
        raise UnsupportedModel(
            f"{folder.name} is incomplete: none of its files has the weights {first}{others}.",
            hint=DOWNLOAD_AGAIN,
        )


def _keep_trainable(model: nn.Module) -> None:
    """Switch off bitsandbytes' in-place repacking for CPUs with AVX-512-BF16.

    In evaluation `Linear4bit` repacks its weight for a bfloat16 kernel without a gradient; after
    that the layer cannot be trained any more (bitsandbytes 0.50).
    """
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def attach_new_adapter(base: Base, config: TrainConfig) -> PeftModel:
    """Return the policy: the base with a fresh LoRA adapter, only the adapter trainable.

    Raises:
        UnsupportedModel: the model has none of the configured target modules, or they are experts
            and the settings ask for dropout.
    """
    targets = lora_targets(base.model, config.lora_targets)
    if targets.parameters and config.lora_dropout:
        raise UnsupportedModel(
            f"LoRA dropout cannot be applied to the experts of {base.folder.name}.",
            hint="Set LoRA dropout to 0, or name the attention layers as LoRA targets "
            "(q_proj,k_proj,v_proj,o_proj).",
        )
    lora = LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=_peft_names(targets.modules),
        target_parameters=list(targets.parameters) or None,
        bias="none",
        task_type="CAUSAL_LM",
    )
    with loading_errors(
        f"LoRA cannot be put on {base.folder.name}", "Set the LoRA targets to all-linear."
    ):
        policy = get_peft_model(base.model, lora)
    _keep_adapter_exact(policy)
    return policy


def attach_start_adapter(base: Base, folder: Path, config: TrainConfig) -> PeftModel:
    """Return the policy: the base with a copy of a saved adapter, only the adapter trainable.

    Raises:
        UnsupportedModel: the adapter does not fit the base.
    """
    refuse_unsafe_adapter(folder)
    with loading_errors("The starting adapter does not fit its base model", ADAPTER_HINT):
        lora = LoraConfig.from_pretrained(str(folder))
        lora.lora_dropout = config.lora_dropout
        policy = PeftModel.from_pretrained(
            base.model,
            str(folder),
            adapter_name=ADAPTER,
            is_trainable=True,
            config=lora,
            use_safetensors=True,
        )
    _keep_adapter_exact(policy)
    return policy


def _peft_names(modules: tuple[str, ...] | str) -> list[str] | str:
    return modules if isinstance(modules, str) else list(modules)


def recompute_activations(model: PreTrainedModel) -> None:
    """Let a base compute its activations again in the backward pass instead of keeping them."""
    # Renamed in transformers 5.17; the old name warns from then on.
    options = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)


def _keep_adapter_exact(policy: PeftModel) -> None:
    """Hold the adapter in float32: bfloat16 would lose updates smaller than 1/256 of a weight."""
    for parameter in policy.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def attach_saved_adapter(
    model: PreTrainedModel | PeftModel, folder: Path, name: str, title: str = ""
) -> PeftModel:
    """Return the model with a saved adapter added under a name, frozen.

    Args:
        model: a base, or a base with other adapters.
        folder: of the adapter.
        name: under which PEFT knows it.
        title: what errors call it; its folder without one.

    Raises:
        ModelNotFound: the folder holds no safetensors adapter.
        UnsupportedModel: it is not a plain LoRA adapter, or does not fit the model.
    """
    if not (folder / "adapter_model.safetensors").is_file():
        raise ModelNotFound(
            f"There is no adapter in {folder}.",
            hint="Choose a run that finished, or was stopped after its first steps.",
        )
    refuse_unsafe_adapter(folder)
    options: dict[str, Any] = {"is_trainable": False, "use_safetensors": True}
    with loading_errors(f"{title or folder} does not fit its base model", ADAPTER_HINT):
        if isinstance(model, PeftModel):
            model.load_adapter(str(folder), adapter_name=name, **options)
            return model
        return PeftModel.from_pretrained(model, str(folder), adapter_name=name, **options)
