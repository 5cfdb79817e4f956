"""Linear and logarithmic axes, and their round tick values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TICKS = 6
Places = NDArray[np.float64]


@dataclass(frozen=True)
class Scale:
    """Map from values to positions along an axis, 0 to 1; a logarithmic one needs positive ends."""

    low: float
    high: float
    is_log: bool = False

    def place(self, value: float) -> float:
        """Return the position of a value: 0 at the low end, 1 at the high end."""
        if self.is_log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def places(self, values: Sequence[float]) -> Places:
        """Return the positions of many values."""
        many = np.asarray(values, np.float64)
        if self.is_log:
            return np.log(many / self.low) / math.log(self.high / self.low)
        return (many - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Return about `TICKS` round numbers to label."""
        if self.is_log:
            return self._powers()
        return _multiples(self.low, self.high)

    def _powers(self) -> list[float]:
        """Return powers of ten, with 2 and 5 times them where there is room."""
        lowest, highest = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        apart = max(1, math.ceil((highest - lowest) / TICKS))
        powers = range(lowest, highest + 1, apart)
        for factors in ((1, 2, 5), (1,)):
            found = [factor * 10.0**power for power in powers for factor in factors]
            inside = [tick for tick in found if self.low <= tick <= self.high]
            if 2 <= len(inside) <= TICKS + 2:
                return inside
        # Less than a decade is on the axis: linear ticks.
        return _multiples(self.low, self.high)


def _multiples(low: float, high: float) -> list[float]:
    step = round_step((high - low) / TICKS)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    # Digits for the smallest steps: a learning rate may be 1e-6.
    digits = max(0, 2 - math.floor(math.log10(step)))
    return [round(index * step, digits) for index in range(first, last + 1)]


def round_step(rough: float) -> float:
    """Return the next larger 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next((power * factor for factor in (1, 2, 5) if rough <= power * factor), power * 10)
