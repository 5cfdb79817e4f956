"""Findings about all pairs together: too few of them, or one response longer. Floor 1; no torch."""

from __future__ import annotations

from orpo_qlora.data.doctor.findings import BY_ID
from orpo_qlora.data.shapes.base import Preference, Side
from orpo_qlora.data.summary import Finding

BIASED_SHARE = 0.65
"""Share of pairs whose chosen response is the longer (or the shorter) one from which length is
reported as a bias."""
PAIRS_TO_JUDGE_LENGTH = 20
FEW_PAIRS = 50


class LengthCounts:
    """Pairs and single responses, and pairs by which response has more characters."""

    def __init__(self) -> None:
        self.pairs = self._longer = self._shorter = 0
        self.singles: dict[Side, int] = {"chosen": 0, "rejected": 0}

    @property
    def count(self) -> int:
        """Pairs and single responses."""
        return self.pairs + sum(self.singles.values())

    def add(self, pair: Preference) -> None:
        """Count a pair or a single response."""
        if pair.single:
            self.singles[pair.single] += 1
            return
        self.pairs += 1
        self._longer += len(pair.chosen) > len(pair.rejected)
        self._shorter += len(pair.chosen) < len(pair.rejected)

    def length_bias(self) -> Finding | None:
        """Return the finding that length gives the chosen response away, or None."""
        counts = {"longer": self._longer, "shorter": self._shorter}
        direction, count = max(counts.items(), key=lambda item: item[1])
        share = count / max(1, self.pairs)
        if self.pairs < PAIRS_TO_JUDGE_LENGTH or share < BIASED_SHARE:
            return None
        kind = BY_ID["length-bias"]
        return Finding(
            id=kind.id,
            severity=kind.severity,
            label=f"the chosen response is the {direction} one in {share:.0%} of the pairs",
            count=count,
            share=share,
            advice=f"{kind.advice} Expect {direction} answers, whatever else it learns.",
        )

    def few_pairs(self, rows_read: int) -> Finding | None:
        """Return the finding that there are few pairs, or None."""
        if self.count >= FEW_PAIRS:
            return None
        kind = BY_ID["few-pairs"]
        noun = "responses" if self.count > self.pairs else "pairs"
        return Finding(
            id=kind.id,
            severity=kind.severity,
            label=f"there are very few {noun} ({self.count:,})",
            count=self.count,
            share=self.count / max(1, rows_read),
            advice=kind.advice,
        )
