"""Which pairs an optimizer step sees. Floor 2."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial

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
    list that still fit, and splits one only if none does. Without repeated prompts both orders are
    the same.
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


def _fill_steps(units: Sequence[list[int]], per_step: int) -> list[list[int]]:
    """Return units of at most `per_step` indices as steps, all full but the last."""
    # By size, so that the first unit that fits is found without a search.
    waiting: dict[int, list[tuple[int, list[int]]]] = {}
    for number, unit in enumerate(units):
        waiting.setdefault(len(unit), []).append((number, unit))
    steps: list[list[int]] = []
    while waiting:
        step: list[int] = []
        while waiting and len(step) < per_step:
            room = per_step - len(step)
            sizes = [size for size in waiting if size <= room] or list(waiting)
            first = min(sizes, key=lambda size: waiting[size][0][0])
            number, unit = heapq.heappop(waiting[first])
            if not waiting[first]:
                del waiting[first]
            step += unit[:room]
            if unit[room:]:
                heapq.heappush(waiting.setdefault(first - room, []), (number, unit[room:]))
        steps.append(step)
    return steps


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
