"""Which pairs an optimizer step sees. Floor 2."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import lru_cache, partial

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


def epoch_order(
    prompts: Sequence[Hashable], per_step: int, seed: int, epoch: int, *, group_by_prompt: bool
) -> list[int]:
    """Return the indices of all pairs in the order of an epoch; each step takes the next ones.

    A function of its arguments alone. With `group_by_prompt`, pairs of one prompt are in one step
    as far as steps of exactly `per_step` pairs allow: a step takes the first groups of a shuffled
    list that fill it exactly, and splits one only if none do. Without repeated prompts both orders
    are the same.
    """
    source = random.Random(f"{seed}-{epoch}")
    order = list(range(len(prompts)))
    if not group_by_prompt or len(set(prompts)) == len(prompts):
        source.shuffle(order)
        return order
    members: dict[Hashable, list[int]] = {}
    for index, prompt in enumerate(prompts):
        members.setdefault(prompt, []).append(index)
    units: list[list[int]] = []
    for group in members.values():
        source.shuffle(group)
        units += [group[at : at + per_step] for at in range(0, len(group), per_step)]
    source.shuffle(units)
    steps = _fill_steps(units, per_step)
    # Small groups fill gaps and so come early; the last step may be short and stays the last.
    last = [steps.pop()] if len(steps[-1]) < per_step else []
    source.shuffle(steps)
    return [index for step in [*steps, *last] for index in step]


_Waiting = dict[int, list[tuple[int, list[int]]]]
"""Heaps of numbered units by their size, none empty."""


def _fill_steps(units: Sequence[list[int]], per_step: int) -> list[list[int]]:
    """Return units of at most `per_step` indices as steps, all full but the last."""
    waiting: _Waiting = {}
    for number, unit in enumerate(units):
        waiting.setdefault(len(unit), []).append((number, unit))
    steps: list[list[int]] = []
    while waiting:
        step: list[int] = []
        while waiting and (room := per_step - len(step)):
            number, unit = _take(waiting, room)
            step += unit[:room]
            if unit[room:]:
                rest = waiting.setdefault(len(unit) - room, [])
                heapq.heappush(rest, (number, unit[room:]))
        steps.append(step)
    return steps


def _take(waiting: _Waiting, room: int) -> tuple[int, list[int]]:
    """Remove and return the first unit with which others fill the room; else the first that fits.

    Where none fits, the first of all, which is to be split.
    """
    in_order = sorted(waiting, key=lambda size: waiting[size][0][0])
    fitting = [size for size in in_order if size <= room]
    filling = (size for size in fitting if _fills(room - size, _others(waiting, room, size)))
    size = next(filling, (fitting or in_order)[0])
    first = heapq.heappop(waiting[size])
    if not waiting[size]:
        del waiting[size]
    return first


def _others(waiting: _Waiting, room: int, taken: int) -> tuple[tuple[int, int], ...]:
    """Return the sizes of units, and how many there are of each beside one that is taken."""
    return tuple(
        (size, min(len(heap) - (size == taken), (room - taken) // size))
        for size, heap in sorted(waiting.items())
    )


@lru_cache(maxsize=4096)
def _fills(room: int, sizes: tuple[tuple[int, int], ...]) -> bool:
    """Whether some units, given as sizes and counts, fill the room exactly."""
    sums = 1  # bit n: some units have n pairs together
    for size, count in sizes:
        for _ in range(count):
            sums |= sums << size
    return bool(sums >> room & 1)


class _StepSampler(Sampler[list[int]]):
    """The pairs of each step: an order that depends on seed and epoch alone.

    Starts after the steps already taken, so a resumed epoch continues after its last step.
    """

    def __init__(
        self,
        pairs: int,
        per_step: int,
        order: Callable[[int], list[int]],
        steps_taken: Callable[[], int],
    ) -> None:
        self._pairs, self._per_step, self._order = pairs, per_step, order
        self._steps_taken = steps_taken

    def __len__(self) -> int:
        return steps_an_epoch(self._pairs, self._per_step)

    def __iter__(self) -> Iterator[list[int]]:
        epoch, taken = divmod(self._steps_taken(), len(self))
        order = self._order(epoch)
        for start in range(taken * self._per_step, self._pairs, self._per_step):
            yield order[start : start + self._per_step]


def training_batches(
    pairs: Sequence[TokenizedPair], config: TrainConfig, steps_taken: Callable[[], int]
) -> DataLoader[list[TokenizedPair]]:
    """Return the pairs of one step after another.

    Args:
        pairs: the training pairs.
        config: decides how many pairs a step has, and which.
        steps_taken: called when a pass begins; the pass starts at the step after.
    """
    per_step = config.pairs_per_step
    order = partial(
        epoch_order,
        [pair.prompt for pair in pairs],
        per_step,
        config.seed,
        group_by_prompt=config.group_by_prompt,
    )
    return DataLoader(
        list(pairs),  # type: ignore[arg-type]  # torch documents that a sequence is enough
        batch_sampler=_StepSampler(len(pairs), per_step, order, steps_taken),
        collate_fn=list,
        # A separate generator, because each pass draws once at its start. From the global one,
        # which decides dropout, a resumed pass would draw once more than an uninterrupted one.
        generator=torch.Generator(),
    )
