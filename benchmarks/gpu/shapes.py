"""Random 4-bit models of real shapes, made on the device: no download and no files.

Speed and memory depend on shapes and lengths, not on what a model has learnt. The same seed gives
every trainer the same weights.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from bitsandbytes.nn import Linear4bit, Params4bit
from peft import PeftModel
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from orpo_qlora.config import TrainConfig
from orpo_qlora.models.devices.hardware import Arithmetic
from orpo_qlora.models.loading import Base, attach_new_adapter
from orpo_qlora.orpo.rows.tokens import TokenizedPair
from orpo_qlora.orpo.verify.parity import fill_adapter

RANK = 16
SPREAD = 0.02
SEED = 0
FIRST_WORD_TOKEN = 16
SHAPES = {
    "llama-8b": LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=131072,
        rope_theta=500000.0,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
    ),
    "qwen-0.5b": Qwen2Config(
        vocab_size=151936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        rope_theta=1000000.0,
        tie_word_embeddings=True,
    ),
    "tiny-llama": LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    ),
    "tiny-qwen": Qwen2Config(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
}
"""The constants of Llama-3.1-8B's and Qwen2.5-0.5B's config.json, and two for a dry run."""


@dataclass(frozen=True)
class Lengths:
    """Pairs of a cell: tokens of each part, and how many make an optimizer step."""

    prompt: tuple[int, int]
    """Fewest and most tokens; drawn evenly between them."""
    response: tuple[int, int]
    pairs_per_step: int
    batches: tuple[int, ...]
    """TRL's sizes of a batch to try."""


CELLS = {
    # Instructions with answers of a few sentences.
    "short": Lengths((16, 64), (32, 128), 32, (4, 16)),
    # Lengths of HH-RLHF's harmless part: dialogues of a few turns, short answers.
    "hh": Lengths((40, 360), (10, 180), 32, (4, 8)),
    # Documents with long answers.
    "long": Lengths((1024, 1536), (384, 512), 8, (1, 2)),
    "tiny": Lengths((4, 12), (4, 12), 4, (4,)),
}


def pairs_of(cell: str, steps: int, vocabulary: int) -> list[TokenizedPair]:
    """Return random pairs for a number of steps, the same on each call."""
    lengths, source = CELLS[cell], random.Random(SEED)

    def tokens(ends: tuple[int, int]) -> tuple[int, ...]:
        return tuple(
            source.randrange(FIRST_WORD_TOKEN, vocabulary) for _ in range(source.randint(*ends))
        )

    return [
        TokenizedPair(
            tokens(lengths.prompt), tokens(lengths.response), tokens(lengths.response), row
        )
        for row in range(1, steps * lengths.pairs_per_step + 1)
    ]


def random_policy(shape: str, arithmetic: Arithmetic) -> tuple[PeftModel, PreTrainedTokenizerFast]:
    """Return a random 4-bit base of a shape with a LoRA adapter, and a tokenizer to pad with."""
    torch.manual_seed(SEED)
    words = Tokenizer(WordLevel({"<unk>": 0, "<pad>": 1, "<s>": 2, "</s>": 3}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    base = Base(_random_base(shape, arithmetic), tokenizer, arithmetic, Path(shape))
    policy = attach_new_adapter(base, TrainConfig(lora_r=RANK, lora_alpha=2 * RANK))
    fill_adapter(policy)
    return policy, tokenizer


def _random_base(shape: str, arithmetic: Arithmetic) -> PreTrainedModel:
    config = SHAPES[shape]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=arithmetic.dtype)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and name != "lm_head":
                setattr(module, name, _packed(child, arithmetic))
    _fill(model, arithmetic)
    model.is_loaded_in_4bit = True
    model.requires_grad_(False)
    return model.eval()


def _packed(linear: nn.Linear, arithmetic: Arithmetic) -> Linear4bit:
    options = {"device": arithmetic.device, "dtype": arithmetic.dtype}
    weight = torch.randn(linear.weight.shape, **options).mul_(SPREAD)
    packed = Linear4bit(
        linear.in_features,
        linear.out_features,
        linear.bias is not None,
        compute_dtype=arithmetic.dtype,
        compress_statistics=True,
        quant_type="nf4",
        device="meta",
    )
    packed.weight = Params4bit(
        weight, requires_grad=False, compress_statistics=True, quant_type="nf4", module=packed
    ).to(arithmetic.device)
    if linear.bias is not None:
        packed.bias = nn.Parameter(torch.zeros(linear.out_features, **options))
    return packed


def _fill(model: PreTrainedModel, arithmetic: Arithmetic) -> None:
    """Give everything that is not packed its values: embeddings, norms, rotary angles."""
    options = {"device": arithmetic.device, "dtype": arithmetic.dtype}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if not parameter.is_meta:
                continue
            is_norm = parameter.ndim == 1
            values = torch.ones if is_norm else torch.randn
            filled = values(parameter.shape, **options).mul_(1.0 if is_norm else SPREAD)
            setattr(module, name, nn.Parameter(filled))
    model.tie_weights()
    rotary = model.model.rotary_emb
    model.model.rotary_emb = type(rotary)(model.config).to(arithmetic.device)
