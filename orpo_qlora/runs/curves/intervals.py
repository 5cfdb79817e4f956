"""Confidence intervals of 95 %. Floor 3; no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Z_95 = 1.959964
"""Standard normal quantile of a two-sided 95 % interval."""


@dataclass(frozen=True)
class Interval:
    """A measured number and its 95 % confidence interval."""

    value: float
    low: float
    high: float
    method: Literal["bootstrap", "wilson", "logistic"] = "bootstrap"

    @property
    def is_above_zero(self) -> bool:
        """Whether the whole interval is."""
        return self.low > 0

    @property
    def is_below_zero(self) -> bool:
        """Whether the whole interval is."""
        return self.high < 0


def wilson(share: float, count: float) -> Interval:
    """Return the 95 % score interval of a share, 0 to 1, of `count` independent pairs.

    Wilson (1927), without continuity correction. Unlike share ± 2 standard errors it stays within
    0 and 1 and has a width at both ends.
    """
    if count <= 0:
        return Interval(share, 0.0, 1.0, "wilson")
    square = Z_95**2
    middle = (share + square / (2 * count)) / (1 + square / count)
    spread = share * (1 - share) / count + square / (4 * count**2)
    half = Z_95 * math.sqrt(spread) / (1 + square / count)
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half), "wilson")
