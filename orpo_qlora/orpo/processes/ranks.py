"""The processes that share one training, as its steps see them. Floor 2.

Every rank builds the same step, because the order of the pairs depends on seed and epoch alone, and
so knows what the loss divides by. Each rank computes its share of the pairs; the gradients of the
adapter are added up once a step. `Ranks` is a training of one process, which communicates with
nobody; `process_group.ProcessGroup` is one of several.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")


class Ranks:
    """A training in one process."""

    rank = 0
    size = 1
    local_size = 1
    """Processes on this machine, which share its memory."""
    shards_base = False
    """Whether each holds a part of the base (`models.sharding`): then all run as many forwards."""

    @property
    def is_first(self) -> bool:
        """Whether this process writes the run folder; the others write nothing."""
        return self.rank == 0

    def parts(self, items: Sequence[Item], cost: Callable[[Item], int]) -> Sequence[Sequence[Item]]:
        """Return what each rank computes of `items`; each item is computed by one rank."""
        return [items]

    def share(self, items: Sequence[Item], cost: Callable[[Item], int]) -> Sequence[Item]:
        """Return this rank's part of `items`."""
        return self.parts(items, cost)[self.rank]

    def gather(self, local: Callable[[], Result]) -> list[Result]:
        """Run `local` on every rank and return all results, in the order of the ranks.

        Results are what JSON can hold; from other ranks they come as JSON gives them.

        Raises:
            Exception: what `local` raised. Where it failed on one rank, every rank raises, so that
                all repeat, stop or fail together.
        """
        return [local()]

    def together(self, local: Callable[[], Result]) -> Result:
        """Run `local` on every rank and return this rank's own result; raises as `gather`."""
        return local()

    def first_then_others(self, local: Callable[[], Result]) -> Result:
        """Do as `together`, but let rank 0 finish first: the others find what it has cached."""
        return local()

    def in_turn(self, local: Callable[[], Result]) -> Result:
        """Do as `together`, the processes of a machine one after another, to spare its memory."""
        return local()

    def from_first(self, local: Callable[[], Result]) -> Result:
        """Run `local` on rank 0 alone and return its result on every rank; raises as `gather`."""
        return local()

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on at least one rank."""
        return flag

    @property
    def is_intact(self) -> bool:
        """Whether all other ranks of this machine are alive."""
        return True

    def prepare(self, parameters: Sequence[Tensor]) -> None:
        """Reserve the memory that `sum_gradients` needs; raises as `gather`."""

    def sum_gradients(self) -> None:
        """Replace the gradients of the prepared parameters by their sums over all ranks."""

    def copy_first(self) -> None:
        """Give the prepared parameters of every rank the values of rank 0."""


ALONE = Ranks()


def assign(costs: Sequence[int], ranks: int) -> list[int]:
    """Return the rank of each item: the costliest first, to the rank with the least so far.

    The order of equal items decides between them. A rank may get nothing.
    """
    loads, places = [0] * ranks, [0] * len(costs)
    for index in sorted(range(len(costs)), key=lambda index: -costs[index]):
        place = loads.index(min(loads))
        places[index] = place
        loads[place] += costs[index]
    return places
