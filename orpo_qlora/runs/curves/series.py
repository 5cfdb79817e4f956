"""All points of a quantity, held compactly; smoothed, cut and thinned. Floor 3; no torch."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Point = tuple[int, float]
Steps = NDArray[np.int32]
Values = NDArray[np.float64]
Kind = TypeVar("Kind", bound=np.generic)

MOST_DRAWN = 500
"""Points of a thinned course; more cannot be distinguished on a screen."""
KEPT_SMOOTHINGS = 2
"""Smoothed copies of a series kept at a time: two viewers may have chosen differently."""
SMOOTHED_APART = 250
"""Points of a picture whose smoothing is as chosen; more are taken as groups of 2, 4, 8 …"""
BLOCK = 64
"""Values summed up at once while smoothing; weight ** -BLOCK must stay a number."""
LEAST_WEIGHT = 1e-3


@dataclass(frozen=True, eq=False)
class Course:
    """Finite points of a quantity, oldest first."""

    steps: Steps
    values: Values

    def __len__(self) -> int:
        return len(self.steps)

    def points(self) -> list[Point]:
        """Return the points one by one."""
        return list(zip(self.steps.tolist(), self.values.tolist(), strict=True))

    def scaled(self, factor: float) -> Course:
        """Return the course of a multiple of the quantity."""
        return self if factor == 1.0 else Course(self.steps, self.values * factor)

    def within(self, first: int, last: int) -> Course:
        """Return the points from one step to another, and a neighbour on each side if there is one.

        The neighbours let a line run on to both ends of the picture.
        """
        start = max(0, int(np.searchsorted(self.steps, first, "left")) - 1)
        end = int(np.searchsorted(self.steps, last, "right")) + 1
        return Course(self.steps[start:end], self.values[start:end])

    def thinned(self, most: int = MOST_DRAWN) -> Course:
        """Return at most `most` points; the first, the last and each stretch's extremes stay.

        Stretches have a power of two of points, so that drawn points do not move while a run
        grows.
        """
        count = len(self)
        if count <= most:
            return self
        width = 1 << math.ceil(math.log2(count / (most // 2 - 2)))
        whole = count // width
        body = self.values[: whole * width].reshape(whole, width)
        starts = np.arange(whole) * width
        rest = self.values[whole * width :]
        ends = [0, count - 1]
        if len(rest):
            ends += [whole * width + int(rest.argmin()), whole * width + int(rest.argmax())]
        kept = np.unique(np.concatenate([starts + body.argmin(1), starts + body.argmax(1), ends]))
        return Course(self.steps[kept], self.values[kept])


class Series:
    """The points of one quantity while it grows.

    What a reader was given never changes: points are only added, beyond what it has seen.
    """

    def __init__(self) -> None:
        self.broken: list[int] = []
        """Steps at which the value was not a finite number."""
        self._count = 0
        self._steps: Steps = np.empty(0, np.int32)
        self._values: Values = np.empty(0)
        self._smooth: dict[float, _Smoothed] = {}
        self._smoothing = threading.Lock()

    def __len__(self) -> int:
        return self._count

    def extend(self, steps: Sequence[int], values: Sequence[float]) -> None:
        """Take the next points; `steps` never fall."""
        fresh = np.asarray(values, np.float64)
        when = np.asarray(steps, np.int32)
        finite = np.isfinite(fresh)
        if not finite.all():
            self.broken += when[~finite].tolist()
            fresh, when = fresh[finite], when[finite]
        end = self._count + len(fresh)
        self._steps = _with_room(self._steps, self._count, end)
        self._values = _with_room(self._values, self._count, end)
        self._steps[self._count : end] = when
        self._values[self._count : end] = fresh
        self._count = end

    @property
    def last_step(self) -> int:
        """Step of the latest finite value, -1 without one."""
        return int(self._steps[self._count - 1]) if self._count else -1

    def merged(self, steps: Sequence[int], values: Sequence[float]) -> Series:
        """Return a new series with further points in the order of their steps."""
        when = [*self._steps[: self._count].tolist(), *self.broken, *steps]
        broken = [math.nan] * len(self.broken)
        numbers = [*self._values[: self._count].tolist(), *broken, *values]
        order = sorted(range(len(when)), key=when.__getitem__)
        series = Series()
        series.extend([when[at] for at in order], [numbers[at] for at in order])
        return series

    def course(self, count: int | None = None, smoothing: float = 0.0) -> Course:
        """Return the first `count` points, or all.

        Args:
            count: how many.
            smoothing: 0 for the points as they were measured; else how much of a smoothed value
                comes from the ones before it, below 1.
        """
        count = self._count if count is None else count
        steps, values = self._steps[:count], self._values[:count]
        if smoothing < LEAST_WEIGHT:
            return Course(steps, values)
        with self._smoothing:
            smooth = self._smooth.pop(smoothing, None) or _Smoothed(smoothing)
            self._smooth[smoothing] = smooth  # the latest used last
            if len(self._smooth) > KEPT_SMOOTHINGS:
                del self._smooth[next(iter(self._smooth))]
            return Course(steps, smooth.of(values))


class _Smoothed:
    """An exponential moving average without the pull of its start, kept while its series grows.

    Every point counts, drawn or not. The average starts from nothing, so early values are divided
    by the share of weights that are there (as Adam does): a constant stays constant from its first
    point on.
    """

    def __init__(self, weight: float) -> None:
        self._weight = weight
        self._count = 0
        self._sum = 0.0
        self._values: Values = np.empty(0)

    def of(self, values: Values) -> Values:
        """Return the smoothed values of the first points of the series."""
        end = len(values)
        if end > self._count:
            sums = decayed_sums(values[self._count :], self._weight, self._sum)
            ages = np.arange(self._count + 1, end + 1)
            share = -np.expm1(ages * math.log(self._weight))
            self._values = _with_room(self._values, self._count, end)
            self._values[self._count : end] = (1 - self._weight) * sums / share
            self._count, self._sum = end, float(sums[-1])
        return self._values[:end]


def weight_for(smoothing: float, count: int) -> float:
    """Return the weight of the past for so many points: a choice smooths alike at any length.

    A weight of 0.6 a step says something about 50 steps and nothing about 50,000. It changes when a
    run has doubled, so a growing run is not smoothed again with every step.
    """
    groups = 1 << max(0, math.ceil(math.log2(max(1, count) / SMOOTHED_APART)))
    return float(smoothing ** (1 / groups))


def decayed_sums(values: Values, weight: float, before: float = 0.0) -> Values:
    """Return `s[t] = weight · s[t - 1] + values[t]`, with `before` as the sum so far.

    Block by block: within a block the sum is `weight^t · Σ values[i] / weight^i`.
    """
    blocks = math.ceil(len(values) / BLOCK)
    padded = np.zeros(blocks * BLOCK)
    padded[: len(values)] = values
    powers = weight ** np.arange(1, BLOCK + 1)
    inner = np.cumsum(padded.reshape(blocks, BLOCK) / powers, axis=1) * powers
    decay = float(powers[-1])
    ends = inner[:, -1].tolist()
    starts = list(accumulate(ends, lambda so_far, end: decay * so_far + end, initial=before))[:-1]
    whole: Values = inner + np.outer(starts, powers)
    return whole.reshape(-1)[: len(values)]


def _with_room(array: NDArray[Kind], count: int, wanted: int) -> NDArray[Kind]:
    """Return an array with room for `wanted` items that begins with the first `count`.

    A larger one is a new array: views of the old one stay as they are.
    """
    if wanted <= len(array):
        return array
    larger = np.empty(max(wanted, len(array) * 3 // 2, 64), array.dtype)
    larger[:count] = array[:count]
    return larger
