"""How sure a share is that was counted on a few pairs. Floor 3; no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

Z_95 = 1.959964
"""Standard normal quantile of a two-sided 95 % interval."""


@dataclass(frozen=True)
class Interval:
    """Both ends of an interval of a share, 0 to 1."""

    low: float
    high: float


def wilson(share: float, count: float) -> Interval:
    """Return the 95 % score interval of a share seen on so many pairs.

    Wilson (1927), without continuity correction. Unlike share ± 2 standard errors it stays within
    0 and 1 and has a width at both ends.
    """
    if count <= 0:
        return Interval(0.0, 1.0)
    square = Z_95**2
    middle = (share + square / (2 * count)) / (1 + square / count)
    spread = share * (1 - share) / count + square / (4 * count**2)
    half = Z_95 * math.sqrt(spread) / (1 + square / count)
    return Interval(max(0.0, middle - half), min(1.0, middle + half))
