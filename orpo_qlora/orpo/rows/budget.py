"""The token budget of a forward, halved when memory runs out. Floor 2.

When memory runs out, the step is undone, the budget halved and the step repeated. Its pairs and
their weights in the loss are the same, so its result is; only the cut into forwards differs.
"""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TypeVar

import torch
from peft import PeftModel

from orpo_qlora.config import TrainConfig
from orpo_qlora.errors import OutOfMemory
from orpo_qlora.models.devices.hardware import free_memory_bytes, is_out_of_memory
from orpo_qlora.models.devices.memory import (
    FEWEST_TOKENS,
    MemoryChoice,
    Room,
    choose_memory,
    shape_of,
)
from orpo_qlora.models.loading import recompute_activations
from orpo_qlora.models.sharding import gathered_bytes
from orpo_qlora.orpo.engine import Engine
from orpo_qlora.orpo.processes.ranks import ALONE, Ranks
from orpo_qlora.orpo.rows.tokens import TokenizedPair

log = logging.getLogger(__name__)

SMALLEST = 16
"""Tokens; below, every forward holds a single pair anyway."""
Result = TypeVar("Result")


class Budget:
    """Tokens a forward may hold, shrinking when memory runs out."""

    def __init__(
        self, policy: PeftModel, choice: MemoryChoice, note: Callable[[str], None]
    ) -> None:
        self.tokens = choice.tokens
        self._most = sys.maxsize
        self._recomputes = choice.recomputes
        self._policy = policy
        self._note = note

    def lower(self, times: int) -> None:
        """Halve the tokens so often, for a checkpoint's too: that is where memory ran out before.

        For a sharded base, whose steps are not repeated.
        """
        self.tokens = self._most = max(SMALLEST, self.tokens >> times)

    def restore(self, tokens: int) -> None:
        """Continue with a checkpoint's tokens: a different cut into forwards rounds differently."""
        self.tokens = min(tokens, self._most)

    def spend(self, work: Callable[[int], Result]) -> Result:
        """Return `work(tokens)`, repeated with fewer tokens whenever memory runs out.

        Each attempt starts with the random state of the first and without gradients, so the result
        equals that of a single call with the final budget.

        Raises:
            OutOfMemory: not even single pairs with recomputed activations fit.
        """
        before = _random_state()
        while True:
            try:
                return work(self.tokens)
            except (MemoryError, RuntimeError) as exc:
                if not is_out_of_memory(exc):
                    raise
                log.info("out of memory: %s", exc)
            # Outside the handler: the exception's traceback held the tensors of the failed try.
            self._shrink()
            self._policy.zero_grad(set_to_none=True)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            _set_random_state(before)

    def _shrink(self) -> None:
        if self.tokens >= 2 * SMALLEST:
            self.tokens //= 2
            self._note(
                f"Memory ran out: going on with {self.tokens:,} tokens a forward; the result "
                "stays the same."
            )
        elif not self._recomputes:
            recompute_activations(self._policy.get_base_model())
            self._recomputes = True
            self._note(
                "Memory ran out: activations are recomputed from here on, which takes about a "
                "third more time; the result stays the same."
            )
        else:
            raise OutOfMemory(
                "Memory does not hold a single pair, even with recomputed activations.",
                hint="Lower “Longest sequence”, or choose a smaller model.",
            )


def settle_memory(
    engine: Engine, config: TrainConfig, pairs: Sequence[TokenizedPair], ranks: Ranks = ALONE
) -> MemoryChoice:
    """Choose how a training uses the memory that is free now, and put the choice into effect.

    All ranks make the choice of the one with the least memory.
    """
    if ranks.shards_base:  # unpacked weights would be those of the whole base
        config = config.model_copy(update={"dequant_cache": "off"})
    gathered = ranks.gather(lambda: asdict(_choice(engine, config, pairs, ranks.local_size)))
    found = [MemoryChoice(**choice) for choice in gathered]
    choice = MemoryChoice(
        tokens=min(one.tokens for one in found),
        recomputes=any(one.recomputes for one in found),
        keeps_unpacked=all(one.keeps_unpacked for one in found),
        predicted_bytes=max(one.predicted_bytes for one in found),
    )
    if choice.recomputes:
        recompute_activations(engine.policy.get_base_model())
    if choice.keeps_unpacked:
        engine.linears.keep_unpacked()
    return choice


def _choice(
    engine: Engine, config: TrainConfig, pairs: Sequence[TokenizedPair], processes: int
) -> MemoryChoice:
    """Return how this process should use its memory; on a CPU, `processes` share what is free."""
    base = engine.policy.get_base_model()
    device = engine.policy.device.type
    free = free_memory_bytes() // (processes if device == "cpu" else 1)
    room = Room(max(0, free - gathered_bytes(base)), device)
    longest = engine.longest_row(pairs)
    try:
        shape = shape_of(base.config.to_dict())
    except KeyError:  # an architecture with other names for its sizes: start small
        tokens = config.max_tokens_per_forward or max(longest, FEWEST_TOKENS[room.device])
        return MemoryChoice(tokens, config.activation_checkpointing == "on", False, 0)
    return choose_memory(shape, config, base.dtype.itemsize, room, longest)


def _random_state() -> list[torch.Tensor]:
    states = [torch.get_rng_state()]
    if torch.cuda.is_available():
        states.append(torch.cuda.get_rng_state())
    return states


def _set_random_state(states: list[torch.Tensor]) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1])
