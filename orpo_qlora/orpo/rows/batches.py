"""Which pairs an optimizer step sees. Floor 2."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence

import torch
from torch.utils.data import DataLoader, Sampler

from orpo_qlora.config import TrainConfig
from orpo_qlora.orpo.rows.tokens import TokenizedPair


def steps_an_epoch(pairs: int, per_step: int) -> int:
    """Return the optimizer steps of one pass; the last one may see fewer pairs."""
    return math.ceil(pairs / per_step)


def total_steps(config: TrainConfig, pairs: int) -> int:
    """Return the number of optimizer steps of a run over `pairs` training pairs."""
    per_epoch = steps_an_epoch(pairs, config.pairs_per_step)
    return config.max_steps or max(1, math.ceil(per_epoch * config.epochs))


class _StepSampler(Sampler[list[int]]):
    """The pairs of each step: a shuffle that depends on seed and epoch alone.

    Starts after the steps already taken, so a resumed epoch continues after its last step.
    """

    def __init__(
        self, pairs: int, per_step: int, seed: int, steps_taken: Callable[[], int]
    ) -> None:
        self._pairs, self._per_step, self._seed = pairs, per_step, seed
        self._steps_taken = steps_taken

    def __len__(self) -> int:
        return steps_an_epoch(self._pairs, self._per_step)

    def __iter__(self) -> Iterator[list[int]]:
        epoch, taken = divmod(self._steps_taken(), len(self))
        order = list(range(self._pairs))
        random.Random(f"{self._seed}-{epoch}").shuffle(order)
        for start in range(taken * self._per_step, self._pairs, self._per_step):
            yield order[start : start + self._per_step]


def training_batches(
    pairs: Sequence[TokenizedPair], per_step: int, seed: int, steps_taken: Callable[[], int]
) -> DataLoader[list[TokenizedPair]]:
    """Return the pairs of one step after another.

    Args:
        pairs: the training pairs.
        per_step: pairs of a step.
        seed: decides the order.
        steps_taken: called when a pass begins; the pass starts at the step after.
    """
    return DataLoader(
        list(pairs),  # type: ignore[arg-type]  # torch documents that a sequence is enough
        batch_sampler=_StepSampler(len(pairs), per_step, seed, steps_taken),
        collate_fn=list,
        # A separate generator, because each pass draws once at its start. From the global one,
        # which decides dropout, a resumed pass would draw once more than an uninterrupted one.
        generator=torch.Generator(),
    )
