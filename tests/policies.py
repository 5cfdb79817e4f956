"""Tiny random policies of real architectures, and random pairs for them."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPTNeoXConfig,
    Lfm2Config,
    LlamaConfig,
    MistralConfig,
    PhiConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from orpo_qlora.orpo.rows.tokens import TokenizedPair

VOCABULARY = 97
SIZE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}

CONFIGS = {
    "llama-tied": LlamaConfig(**SIZE, **GROUPED, tie_word_embeddings=True),
    "llama-untied": LlamaConfig(**SIZE, **GROUPED, tie_word_embeddings=False),
    "qwen2": Qwen2Config(**SIZE, num_key_value_heads=2),
    "qwen3": Qwen3Config(**SIZE, **GROUPED),
    "gemma2": Gemma2Config(
        **SIZE, **GROUPED, sliding_window=6, query_pre_attn_scalar=8, final_logit_softcapping=5.0
    ),
    "gemma3": Gemma3TextConfig(**SIZE, **GROUPED, sliding_window=6, query_pre_attn_scalar=8),
    "mistral-window": MistralConfig(**SIZE, **GROUPED, sliding_window=5),
    "phi": PhiConfig(**SIZE, tie_word_embeddings=False),
    "gpt-neox": GPTNeoXConfig(**SIZE, tie_word_embeddings=False),
}

UNSHAREABLE = {
    # A convolution over the row sees across the end of one answer into the next.
    "lfm2": Lfm2Config(**SIZE, num_key_value_heads=2, layer_types=["conv", "full_attention"]),
}


def make_policy(
    name: str,
    dtype: torch.dtype = torch.float64,
    change_base: Callable[[PreTrainedModel], None] = lambda _: None,
    **lora_options: Any,
) -> PeftModel:
    """Return base plus a LoRA adapter whose both halves are random, so every gradient lives."""
    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_config((CONFIGS | UNSHAREABLE)[name]).to(dtype)
    base.requires_grad_(False)
    # Norm weights and biases start at constants, where a forgotten one would not show.
    with torch.no_grad():
        for parameter in base.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    change_base(base)
    options = {"r": 3, "lora_alpha": 6, "target_modules": "all-linear"} | lora_options
    lora = LoraConfig(**options, task_type="CAUSAL_LM")
    policy = get_peft_model(base, lora).to(dtype)
    randomize_adapter(policy)
    return policy


def randomize_adapter(policy: PeftModel, size: float = 0.1) -> None:
    """Give both halves of every adapter matrix random values."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(size * noise.to(parameter.dtype))


def random_pairs(count: int, seed: int = 0, longest: int = 12) -> list[TokenizedPair]:
    """Return pairs of random tokens; lengths from one token up."""
    source = random.Random(seed)

    def tokens() -> tuple[int, ...]:
        length = source.randint(1, longest)
        return tuple(source.randrange(3, VOCABULARY) for _ in range(length))

    return [TokenizedPair(tokens(), tokens(), tokens(), row) for row in range(1, count + 1)]
