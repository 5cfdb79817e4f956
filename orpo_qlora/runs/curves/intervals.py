"""Confidence intervals of 95 %. Floor 3; no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
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


def clearly_best(intervals: Mapping[str, Interval], *, is_higher_better: bool = True) -> str:
    """Return the name whose interval is beyond those of all others; empty without one."""
    if len(intervals) < 2:
        return ""
    sign = 1 if is_higher_better else -1
    best = max(intervals, key=lambda name: sign * intervals[name].value)
    others = [one for name, one in intervals.items() if name != best]
    if is_higher_better:
        is_clear = all(intervals[best].low > one.high for one in others)
    else:
        is_clear = all(intervals[best].high < one.low for one in others)
    return best if is_clear else ""


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
