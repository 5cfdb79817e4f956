"""Reward models, given or with an adapter trained here. Floor 5; torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from orpo_qlora.config import TrainConfig
from orpo_qlora.data.messages import Message
from orpo_qlora.errors import UnsupportedModel
from orpo_qlora.models.devices import hardware
from orpo_qlora.models.load_errors import loading_errors
from orpo_qlora.models.templates import tokenizers
from orpo_qlora.models.weights import find

HEAD = "score"
"""The scalar head of decoder-only models; others name theirs otherwise."""
OTHER_MODEL = "Name a reward model: one that gives a single number for a conversation."
MOST_TOKENS = 4096
"""Longest conversation that is read; its beginning is cut."""


@dataclass(frozen=True)
class RewardModel:
    """A model that gives a conversation a number."""

    name: str
    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase

    @torch.no_grad()
    def reward(self, turns: Sequence[Message], tools: str = "") -> float:
        """Return the reward of a conversation that ends with an answer."""
        ids = self.tokenizer.apply_chat_template(
            [turn.record() for turn in turns],
            tools=json.loads(tools) if tools else None,
            tokenize=True,
            return_dict=True,
        )["input_ids"][-self._most_tokens :]
        inputs = torch.tensor([ids], device=self.model.device)
        logits = self.model(input_ids=inputs, attention_mask=torch.ones_like(inputs)).logits
        return float(logits[0, 0])

    @property
    def _most_tokens(self) -> int:
        context = getattr(self.model.config, "max_position_embeddings", None)
        return min(context or MOST_TOKENS, MOST_TOKENS)


def load_reward_model(name: str) -> RewardModel:
    """Return a reward model by hub id or folder, with its own chat template; safetensors only.

    Raises:
        ModelNotFound: neither a folder nor a model of the hub.
        UnsupportedModel: it gives no single number, has no trained head or no chat template.
    """
    folder = find.find_weights(name)
    arithmetic = hardware.choose_arithmetic("auto")
    with loading_errors(f"The reward model {name} cannot be loaded", OTHER_MODEL):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model, found = AutoModelForSequenceClassification.from_pretrained(
            folder,
            dtype=arithmetic.dtype,
            device_map={"": arithmetic.device},
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    if found["missing_keys"] or model.config.num_labels != 1:
        why = (
            f"has no trained weights {sorted(found['missing_keys'])[0]}"
            if found["missing_keys"]
            else f"gives {model.config.num_labels} numbers instead of one"
        )
        raise UnsupportedModel(f"{name} is no reward model: it {why}.", hint=OTHER_MODEL)
    if not tokenizer.chat_template:
        raise UnsupportedModel(
            f"The reward model {name} has no chat template, so it cannot read a conversation.",
            hint="Add its chat_template.jinja, or choose another reward model.",
        )
    model.eval().requires_grad_(False)
    return RewardModel(name, model, tokenizer)


def load_scalar_base(config: TrainConfig) -> RewardModel:
    """Return a run's base with a new scalar head, its 4-bit weights held unpacked.

    TRL 1.16 casts what it trains on a 4-bit base to bfloat16, which does not multiply with float32
    on a CPU; unpacked, the weights are the same numbers.

    Raises:
        ModelError: see `find.find_weights` and `tokenizers.load_tokenizer`.
    """
    folder = find.find_weights(config.model, config.revision)
    arithmetic = hardware.choose_arithmetic(config.compute_dtype)
    tokenizer = tokenizers.load_tokenizer(folder, config.chat_template)
    is_packed = config.quantization == "nf4"
    quantized = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=arithmetic.dtype,
        llm_int8_skip_modules=[HEAD],
    )
    with loading_errors(f"{folder.name} cannot be loaded as a reward model"):
        model = AutoModelForSequenceClassification.from_pretrained(
            folder,
            num_labels=1,
            dtype=arithmetic.dtype,
            quantization_config=quantized if is_packed else None,
            device_map={"": arithmetic.device},
            use_safetensors=True,
            trust_remote_code=False,
        )
        if is_packed:
            model = model.dequantize(arithmetic.dtype)
            # transformers 5.23 leaves the mark on, by which TRL takes the weights for packed ones.
            model.is_loaded_in_4bit = False
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    return RewardModel(f"a reward model on {config.model}", model, tokenizer)


def with_adapter(base: RewardModel, folder: Path, name: str) -> RewardModel:
    """Return a scalar base with the adapter and the head that were trained here."""
    with loading_errors(f"The reward adapter in {folder} does not fit its base"):
        model = PeftModel.from_pretrained(base.model, str(folder), use_safetensors=True)
    return RewardModel(name, model.eval(), base.tokenizer)


def rewards_of(
    model: RewardModel,
    conversations: Sequence[tuple[tuple[Message, ...], str]],
    on_step: Callable[[], object],
) -> list[float]:
    """Return the reward of each conversation, given with its tools."""
    found = []
    for turns, tools in conversations:
        found.append(model.reward(turns, tools))
        on_step()
    return found
