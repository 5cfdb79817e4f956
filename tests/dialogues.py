"""Conversations and a GPT-2 for tests of generation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orpo_qlora.data.messages import Message
from orpo_qlora.models.generation.sampling import Sampling

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

GREEDY = Sampling(temperature=0, max_tokens=24)
SHORT = (Message("user", "What is gravity?"),)
LONG = (
    Message("system", "Answer in one line."),
    Message("user", "The quick brown fox jumps over the lazy dog."),
    Message("assistant", "Nice to meet you."),
    Message("user", "Why?"),
)


def make_gpt2() -> GPT2LMHeadModel:
    """Return a tiny random GPT-2: its positions are absolute, so a shift changes its answers."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=400, n_embd=32, n_layer=2, n_head=2, n_positions=256, initializer_range=0.5
    )
    return GPT2LMHeadModel(config).eval()
