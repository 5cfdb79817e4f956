"""Loads embedders. Floor 5; torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from orpo_qlora.evaluation.diversity import Embeddings
from orpo_qlora.evaluation.embeddings import WORDLLAMA, Embed, check_embedder, normalised
from orpo_qlora.models.load_errors import loading_errors
from orpo_qlora.models.weights import find

BATCH = 32
TOKENS = 512
"""Longest text of a transformer; the rest is cut."""


def load_embedder(name: str) -> Embed:
    """Return the embedder of a name: `wordllama`, or a model's hub id or folder.

    Raises:
        InputError: wordllama is not installed.
        ModelError: the model is not found or cannot be loaded.
    """
    check_embedder(name)
    return _wordllama() if name == WORDLLAMA else _transformer(name)


def _wordllama() -> Embed:
    import wordllama  # optional

    # Its default looks for the tokenizer in a folder that the wheel does not have, then at the hub.
    folder = Path(wordllama.__file__).parent
    model = wordllama.WordLlama.load(cache_dir=folder, disable_download=True)

    def embed(texts: Sequence[str]) -> Embeddings:
        return normalised(np.asarray(model.embed(list(texts)), dtype=np.float64))

    return embed


def _transformer(name: str) -> Embed:
    folder = find.find_weights(name)
    with loading_errors(f"The embedding model {name} cannot be loaded"):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model = AutoModel.from_pretrained(
            folder, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
        ).eval()
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"

    @torch.no_grad()
    def embed(texts: Sequence[str]) -> Embeddings:
        rows = []
        for start in range(0, len(texts), BATCH):
            batch = tokenizer(
                list(texts[start : start + BATCH]),
                padding=True,
                truncation=True,
                max_length=TOKENS,
                return_tensors="pt",
            )
            hidden = model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
            ).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1)
            rows.append(((hidden * mask).sum(1) / mask.sum(1)).double().numpy())
        return normalised(np.concatenate(rows))

    return embed
