"""Predicted bytes of a training: arithmetic on a model's config.json. Floor 1; no torch.

What a transformer block keeps for its backward pass is counted tensor by tensor for the engine's
own path (docs/engine.md has the list); tests compare with what autograd really keeps, and with all
storages that a traced step holds at its peak.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orpo_qlora.config import TrainConfig
from orpo_qlora.data.wording import in_bytes

NF4_BYTES = 0.516
"""Bytes of a 4-bit weight with double quantisation: half a byte and its share of the scales."""
SCALE_BYTES = 1 / 16
"""Bytes a 4-bit weight adds once its scales are unpacked: a float32 for 64 weights."""
ADAPTER_BYTES = 16
"""Bytes of an adapter weight: itself, its gradient and AdamW's two moments in float32."""
SHARED_KEYS = 1.5
"""Keys an answer pair attends over per token of its row: the prompt's are gathered twice."""
HEAD_TILE_BYTES = {"cpu": 2 * 64 * 2**20, "cuda": 3 * 128 * 2**20}
"""The tile of logits and its copy in the compute type (`orpo.logps`)."""
RECOMPUTED_BLOCKS = 1
"""Blocks whose activations are alive at once when activations are recomputed."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder that determine its memory."""

    hidden: int
    layers: int
    query_width: int
    key_width: int
    intermediate: int
    vocabulary: int
    is_gated: bool
    is_tied: bool
    experts: int = 1
    experts_a_token: int = 1

    @property
    def linear_weights(self) -> int:
        """Weights of all linear layers in the blocks, experts aside."""
        attention = self.hidden * (2 * self.query_width + 2 * self.key_width)
        feed_forward = self._feed_forward if self.experts == 1 else 0
        return self.layers * (attention + feed_forward)

    @property
    def expert_weights(self) -> int:
        """Weights of all experts of all blocks, which bitsandbytes does not quantise."""
        return self.layers * self.experts * self._feed_forward if self.experts > 1 else 0

    @property
    def _feed_forward(self) -> int:
        return (3 if self.is_gated else 2) * self.hidden * self.intermediate

    @property
    def other_weights(self) -> int:
        """Weights that are never quantised: embedding, output layer and experts."""
        return self.hidden * self.vocabulary * (1 if self.is_tied else 2) + self.expert_weights

    def adapter_weights(self, rank: int) -> int:
        """Weights of a LoRA adapter on all linear layers."""
        attention = 2 * (self.hidden + self.query_width) + 2 * (self.hidden + self.key_width)
        width = self.hidden + self.intermediate
        feed_forward = (3 if self.is_gated else 2) * width * self.experts
        return self.layers * rank * (attention + feed_forward)


def read_shape(folder: Path) -> Shape:
    """Return the shape of the model in a folder, from its config.json."""
    return shape_of(json.loads((folder / "config.json").read_text(encoding="utf-8")))


def shape_of(config: Mapping[str, object]) -> Shape:
    """Return the shape that a Hugging Face config describes.

    Raises:
        KeyError: the config is not a decoder's.
    """
    text = config.get("text_config")
    if isinstance(text, Mapping):
        config = {**config, **text}
    hidden = _number(config, "hidden_size", "n_embd", "d_model")
    heads = _number(config, "num_attention_heads", "n_head")
    head_width = _number(config, "head_dim", default=hidden // heads)
    intermediate = _number(config, "intermediate_size", "n_inner", "ffn_dim", default=4 * hidden)
    return Shape(
        hidden=hidden,
        layers=_number(config, "num_hidden_layers", "n_layer"),
        query_width=heads * head_width,
        key_width=_number(config, "num_key_value_heads", default=heads) * head_width,
        intermediate=_number(config, "moe_intermediate_size", default=intermediate),
        vocabulary=_number(config, "vocab_size"),
        is_gated=_is_gated(config),
        is_tied=bool(config.get("tie_word_embeddings", False)),
        experts=_number(config, "num_local_experts", "num_experts", "n_routed_experts", default=1),
        experts_a_token=_number(config, "num_experts_per_tok", "top_k_experts", default=1),
    )


def _number(config: Mapping[str, object], *names: str, default: int | None = None) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, int):
            return value
    if default is None:
        raise KeyError(names[0])
    return default


def _is_gated(config: Mapping[str, object]) -> bool:
    return config.get("model_type") not in {"gpt2", "gpt_neox", "gptj", "opt", "phi", "starcoder2"}


@dataclass(frozen=True)
class Footprint:
    """Predicted bytes of a training, by purpose."""

    weights: int
    """Base weights, embedding and output layer."""
    adapter: int
    """Adapter, gradient and optimizer state."""
    scales: int
    """The scales of the 4-bit weights, unpacked."""
    per_token: int
    """Kept for the backward pass, a token of a forward."""
    head: int
    """The head's tile, at the end of the forward pass."""
    block: int
    """A weight unpacked, and experts with their adapter added, in the backward pass."""
    block_per_token: int
    """Alive only during the backward pass of a block, a token."""
    unpacked: int
    """All 4-bit weights unpacked; counted only where they are kept."""

    def above_weights(self, tokens: int, *, keeps_unpacked: bool = False) -> int:
        """Return what training adds to the loaded base."""
        kept = self.unpacked if keeps_unpacked else self.scales
        passing = max(self.head, self.block + self.block_per_token * tokens)
        return self.adapter + kept + self.per_token * tokens + passing

    def tokens_within(self, free_bytes: float) -> int:
        """Return how many tokens a forward can hold in memory free beside the loaded base."""
        beside = free_bytes - self.adapter - self.scales
        at_head = (beside - self.head) / self.per_token
        in_block = (beside - self.block) / (self.per_token + self.block_per_token)
        return max(0, int(min(at_head, in_block)))


def footprint(
    shape: Shape,
    rank: int,
    number_bytes: int,
    *,
    is_quantized: bool = True,
    recomputes: bool = False,
    device: str = "cpu",
) -> Footprint:
    """Return the predicted bytes of training a LoRA adapter on a base.

    Args:
        shape: the base's sizes.
        rank: of the adapter, on all linear layers.
        number_bytes: size of a number of the compute type.
        is_quantized: the base's linear layers are in 4 bits.
        recomputes: activations are recomputed in the backward pass.
        device: `cpu` or `cuda`, whose attention kernels keep other tensors.
    """
    block = _kept_in_a_block(shape, rank, number_bytes, device) * number_bytes
    # The final hidden state and the gradient vector that the head forms of it.
    ends = 4 * shape.hidden * number_bytes
    # PEFT adds the adapter to a copy of a layer's experts, which the backward pass needs.
    adapted = shape.expert_weights * number_bytes
    per_token = shape.layers * block + ends
    if recomputes:
        adapted //= shape.layers
        per_token = shape.layers * shape.hidden * number_bytes + RECOMPUTED_BLOCKS * block + ends
    linear_bytes = NF4_BYTES if is_quantized else number_bytes
    return Footprint(
        weights=int(shape.linear_weights * linear_bytes + shape.other_weights * number_bytes),
        adapter=shape.adapter_weights(rank) * ADAPTER_BYTES,
        scales=int(shape.linear_weights * SCALE_BYTES) if is_quantized else 0,
        per_token=per_token,
        head=HEAD_TILE_BYTES[device] + adapted,
        block=_largest_weight(shape) * number_bytes + adapted,
        block_per_token=_passing_in_a_block(shape) * number_bytes,
        unpacked=shape.linear_weights * number_bytes if is_quantized else 0,
    )


def _largest_weight(shape: Shape) -> int:
    return shape.hidden * max(shape.intermediate, shape.query_width)


def _passing_in_a_block(shape: Shape) -> int:
    """Return the numbers alive only in the backward pass of a block's feed-forward, a token."""
    # Gated: gradients of gate and up and the recomputed product; else of the activation's ends.
    # Besides, the gradients of the block's output and of the feed-forward's input.
    widths = 3 if shape.is_gated else 2
    return widths * shape.intermediate * shape.experts_a_token + 2 * shape.hidden


def _kept_in_a_block(shape: Shape, rank: int, number_bytes: int, device: str) -> int:
    """Return the numbers a block keeps for its backward pass, a token."""
    norms = 4 * shape.hidden  # input and output of both
    # One call over all segments keeps its output once; segment by segment they are joined besides.
    is_one_call = device == "cuda" and number_bytes == 2
    queries = (2 if is_one_call else 3) * shape.query_width
    # In float32 no kernel on a GPU takes keys that several heads share.
    is_repeated = device == "cuda" and number_bytes > 2
    keys = int(2 * SHARED_KEYS * (shape.query_width if is_repeated else shape.key_width))
    attention = queries + keys
    # Gated: gate and up; else the input and output of the activation.
    feed_forward = 2 * shape.intermediate * shape.experts_a_token
    adapter = rank * (7 if shape.is_gated else 6)
    return norms + attention + feed_forward + adapter


@dataclass(frozen=True)
class Room:
    """Free memory beside the loaded base, in bytes, and the kind of device."""

    free_bytes: int
    device: str


@dataclass(frozen=True)
class MemoryChoice:
    """How a training uses the memory; changes no result."""

    tokens: int
    """Tokens a forward."""
    recomputes: bool
    """Activations are recomputed in the backward pass."""
    keeps_unpacked: bool
    """4-bit weights are held unpacked."""
    predicted_bytes: int
    """Above the loaded base."""

    def sentence(self) -> str:
        """Return the choice as a sentence for the user."""
        extras = [
            text
            for text, is_on in (
                ("activations recomputed", self.recomputes),
                ("4-bit weights kept unpacked", self.keeps_unpacked),
            )
            if is_on
        ]
        return (
            f"Memory: up to {self.tokens:,} tokens a forward, about "
            f"{in_bytes(self.predicted_bytes)} above the base model"
            f"{''.join(f', {text}' for text in extras)}."
        )


USABLE_SHARE = 0.8
"""Share of the free memory to plan with; the rest is for fragments and for other programs."""
MOST_TOKENS = {"cpu": 1024, "cuda": 8192}
"""More tokens a forward gain nothing there (docs/engine.md)."""
FEWEST_TOKENS = {"cpu": 256, "cuda": 1024}
"""Fewer waste more time on unpacking weights than recomputing activations costs."""
UNPACKED_SHARE = 0.25
"""Share of the memory left over that unpacked weights may take."""


def choose_memory(
    shape: Shape, config: TrainConfig, number_bytes: int, room: Room, longest: int
) -> MemoryChoice:
    """Return how a training fits best; explicit settings are obeyed, `auto` ones decided.

    Args:
        shape: the base's sizes.
        config: its memory settings and the adapter's rank.
        number_bytes: size of a number of the compute type.
        room: free memory.
        longest: tokens of the longest pair's row, which cannot be cut.
    """
    usable = USABLE_SHARE * room.free_bytes
    is_quantized = config.quantization == "nf4"

    def plan(recomputes: bool) -> Footprint:
        return footprint(
            shape,
            config.lora_r,
            number_bytes,
            is_quantized=is_quantized,
            recomputes=recomputes,
            device=room.device,
        )

    asked = config.max_tokens_per_forward
    needed = max(longest, asked or FEWEST_TOKENS[room.device])
    recomputes = config.activation_checkpointing == "on"
    if config.activation_checkpointing == "auto":
        recomputes = plan(False).tokens_within(usable) < needed
    chosen = plan(recomputes)
    fitting = min(chosen.tokens_within(usable), MOST_TOKENS[room.device])
    tokens = asked or max(longest, fitting, 1)
    left_over = usable - chosen.above_weights(tokens)
    keeps = config.dequant_cache == "all" and is_quantized
    if config.dequant_cache == "auto" and room.device == "cuda":
        # On a CPU the unpacked weights do not fit its caches: reading them costs what it saves.
        keeps = 0 < chosen.unpacked <= UNPACKED_SHARE * left_over
    predicted = chosen.above_weights(tokens, keeps_unpacked=keeps)
    return MemoryChoice(tokens, recomputes, keeps, predicted)
