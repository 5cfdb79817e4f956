"""What to change when a training does not fit: arithmetic with the memory model. Floor 4; no torch.

Nothing here changes a setting: changes are tried in the memory model, the cheapest for the user
first, until the prediction fits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from orpo_qlora.config import TrainConfig, setting_fields
from orpo_qlora.data.wording import in_bytes
from orpo_qlora.models.catalogue import CATALOGUE, CatalogueModel, find_model
from orpo_qlora.models.devices.machine import visible_gpus
from orpo_qlora.models.devices.memory import (
    Footprint,
    MemoryChoice,
    Room,
    Shape,
    choose_memory,
    footprint,
)

FEWEST_USEFUL_TOKENS = 64
"""A shorter “Longest sequence” is no advice."""
TYPICAL_BYTES = {"nf4": 0.8, "none": 2.2}
"""Bytes a parameter takes in a whole model, its unquantised embeddings included."""
USABLE_SHARE = 0.7
"""Share of the free memory that another model's weights may take, to leave room for training."""


@dataclass(frozen=True)
class Question:
    """A training as the memory model sees it, before anything is loaded."""

    shape: Shape
    config: TrainConfig
    number_bytes: int
    """Size of a number of the compute type."""
    room: Room
    """All that is free for base and training together."""
    longest: int
    """Tokens of the longest pair's row."""
    fullest: int
    """Tokens of the longest pairs of a step together: no forward holds more."""
    process_bytes: int = 0
    """What the program itself takes of that memory."""

    @property
    def weights(self) -> int:
        """Predicted bytes of the loaded base."""
        return self.footprint(recomputes=False).weights + self.process_bytes

    def footprint(self, *, recomputes: bool) -> Footprint:
        """Return the memory model's prediction for base and adapter."""
        is_quantized = self.config.quantization == "nf4"
        rank, number_bytes = self.config.lora_r, self.number_bytes
        return footprint(
            self.shape,
            rank,
            number_bytes,
            is_quantized=is_quantized,
            recomputes=recomputes,
            device=self.room.device,
        )

    def choice(self) -> MemoryChoice:
        """Return how the training would use the memory beside the base."""
        beside = Room(max(0, self.room.free_bytes - self.weights), self.room.device)
        return choose_memory(self.shape, self.config, self.number_bytes, beside, self.longest)

    def needed_bytes(self) -> int:
        """Return the predicted peak."""
        choice = self.choice()
        tokens = min(choice.tokens, self.fullest)
        plan = self.footprint(recomputes=choice.recomputes)
        return self.weights + plan.above_weights(tokens, keeps_unpacked=choice.keeps_unpacked)

    def fits(self) -> bool:
        """Whether the predicted peak is free."""
        return self.needed_bytes() <= self.room.free_bytes

    def changed(self, **settings: object) -> Question:
        """Return the question with other settings, by field name."""
        return replace(self, config=self.config.model_copy(update=settings))


def changes_for_memory(question: Question, *, longest_pair: int) -> list[str]:
    """Return what to change so that the training fits into memory, cheapest first.

    Args:
        question: a training that does not fit.
        longest_pair: tokens of the longest prompt with its longer answer.
    """
    changes: list[str] = []
    for name, value, text in _SETTINGS:
        other = question.changed(**{name: value})
        if question.needed_bytes() <= other.needed_bytes():
            continue
        question = other
        changes.append(f"{_label(name)}: {text}.")
        if question.fits():
            return changes
    shorter = _shorter(question, longest_pair)
    if shorter:
        return [*changes, shorter]
    return [*_in_parts(question), _smaller_model(question)]


_SETTINGS: tuple[tuple[str, object, str], ...] = (
    ("max_tokens_per_forward", 0, "set it to 0, so that a forward holds fewer tokens"),
    ("activation_checkpointing", "auto", "set it to auto, so that activations are recomputed"),
    ("dequant_cache", "auto", "set it to auto, so that 4-bit weights stay packed"),
    ("quantization", "nf4", "set it to nf4, which takes a quarter to an eighth of the memory"),
)
"""Settings whose value costs no quality, in the order they are tried."""


def _label(name: str) -> str:
    return f"“{setting_fields()[name].title}”"


def _shorter(question: Question, longest_pair: int) -> str:
    """Return the advice to take shorter pairs, empty where that does not help enough."""
    free = question.room.free_bytes - question.weights
    plan = question.footprint(recomputes=True)
    tokens = plan.tokens_within(max(0, free))
    length = int(longest_pair * tokens / max(1, question.longest)) // 16 * 16
    if not FEWEST_USEFUL_TOKENS <= length < longest_pair:
        return ""
    return (
        f"{_label('max_length')}: about {length:,} instead of {longest_pair:,} tokens; longer "
        "pairs are then left out or cut."
    )


def _in_parts(question: Question) -> list[str]:
    """Return the advice to split the base over several GPUs, where there are some."""
    gpus = visible_gpus()
    if gpus < 2 or question.config.shard_base:
        return []
    return [f"{_label('shard_base')}: split it over the {gpus} GPUs; the result is the same."]


def _smaller_model(question: Question) -> str:
    free = USABLE_SHARE * question.room.free_bytes
    bytes_each = TYPICAL_BYTES[question.config.quantization]
    current = find_model(question.config.model)
    most = min(free, question.weights) / bytes_each / 1e9
    fitting = [
        entry
        for entry in CATALOGUE
        if entry.parameters_billion < most and _is_smaller(entry, current)
    ]
    if not fitting:
        return "Close other programs, or take a machine with more memory: no listed model fits."
    best = max(fitting, key=lambda entry: entry.parameters_billion)
    return f"Choose a smaller base model, {best.title} for example."


def _is_smaller(entry: CatalogueModel, current: CatalogueModel | None) -> bool:
    return current is None or entry.parameters_billion < current.parameters_billion


def changes_for_disk(needed_bytes: int, free_bytes: int, config: TrainConfig) -> list[str]:
    """Return what to change so that the training fits on the disk."""
    missing = in_bytes(needed_bytes - free_bytes)
    changes = [f"Free {missing}, or move the home folder to a larger disk."]
    if config.lora_r > 1:
        changes.append(f"{_label('lora_r')}: half of it halves the checkpoints that are kept.")
    return changes
