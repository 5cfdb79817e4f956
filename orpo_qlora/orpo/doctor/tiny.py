"""A tiny random 4-bit policy and random pairs for the checks: no download. Floor 2."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from orpo_qlora.config import TrainConfig
from orpo_qlora.models.devices.hardware import Arithmetic
from orpo_qlora.models.loading import Base, attach_new_adapter, load_weights
from orpo_qlora.orpo.rows.tokens import TokenizedPair
from orpo_qlora.orpo.verify.parity import fill_adapter

VOCABULARY = 512
MODEL = LlamaConfig(
    vocab_size=VOCABULARY,
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=2048,
    # Several times the usual spread: the log-probs of a random model then depend on its input.
    initializer_range=0.1,
    tie_word_embeddings=True,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
FIRST_WORD = 3
"""The first token id that is not special."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of a random pair; each part is drawn up to these."""

    prompt: int = 24
    response: int = 24
    least_share: float = 0.1


def write_model(folder: Path) -> Path:
    """Write the random model in float32 and return its folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(MODEL).to(torch.float32).save_pretrained(folder)
    return folder


def load_policy(folder: Path, arithmetic: Arithmetic, config: TrainConfig) -> PeftModel:
    """Return the 4-bit model with an adapter whose B matrices are small random values."""
    words = Tokenizer(WordLevel({"<unk>": 0}, unk_token="<unk>"))
    base = Base(
        load_weights(folder, arithmetic),
        PreTrainedTokenizerFast(tokenizer_object=words),
        arithmetic,
        folder,
    )
    torch.manual_seed(config.seed)
    policy = attach_new_adapter(base, config)
    fill_adapter(policy)
    return policy


def random_pairs(count: int, lengths: Lengths | None = None) -> list[TokenizedPair]:
    """Return pairs of random tokens, the same ones on each call."""
    source, lengths = random.Random(0), lengths or Lengths()

    def tokens(most: int) -> tuple[int, ...]:
        length = source.randint(max(1, int(most * lengths.least_share)), most)
        return tuple(source.randrange(FIRST_WORD, VOCABULARY) for _ in range(length))

    return [
        TokenizedPair(
            tokens(lengths.prompt), tokens(lengths.response), tokens(lengths.response), row
        )
        for row in range(1, count + 1)
    ]
