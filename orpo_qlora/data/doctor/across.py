"""Data checks across the files of one data set: pairs that another file has too. Floor 1; no torch.

Each file was checked on its own before. Of the texts only 64-bit digests are kept.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from orpo_qlora.data.doctor.examine import Tally, digests
from orpo_qlora.data.doctor.findings import BY_ID
from orpo_qlora.data.doctor.whole import LengthCounts
from orpo_qlora.data.shapes.base import Preference
from orpo_qlora.data.summary import Drop, Finding

LABELS = {
    "duplicate": "the pair is in another file too",
    "contradiction": "a pair of another file prefers the opposite",
}
"""Findings across files, by the id of the same finding inside one file."""
ROW_BITS = 40


@dataclass(frozen=True)
class NumberedPreference:
    """A usable pair with its row in its own file."""

    row: int
    pair: Preference


class AcrossFiles:
    """Compares the pairs of each file with those taken from earlier files."""

    def __init__(self, fixes: Iterable[str] = ()) -> None:
        self._fixes = frozenset(fixes) & LABELS.keys()
        self._names: list[str] = []
        self._seen: dict[int, int] = {}
        """Digest of each pair taken to its row, and its file in the upper bits."""
        self.lengths = LengthCounts()
        self.findings: list[Finding] = []
        self.drops: list[Drop] = []

    def usable(self, name: str, pairs: Iterable[NumberedPreference], total: int) -> array[int]:
        """Return the places of the pairs of a file that no fix drops, and count the findings.

        Args:
            name: the file.
            pairs: its usable pairs.
            total: how many they are.
        """
        found = {kind: Tally() for kind in LABELS}
        kept = array("Q")
        dropped = {kind: Tally() for kind in LABELS}
        for place, numbered in enumerate(pairs):
            kinds = []
            for kind, text in self._repetitions(numbered.pair):
                kinds.append(kind)
                found[kind].add(numbered.row, text)
            reason = next((kind for kind in kinds if kind in self._fixes), None)
            if reason:
                dropped[reason].add(numbered.row)
            else:
                kept.append(place)
        self._record(name, found, dropped, total)
        return kept

    def _repetitions(self, pair: Preference) -> Iterator[tuple[str, str]]:
        """Yield each finding about a pair, with an example."""
        prompt, chosen, rejected = digests(pair)
        same = self._seen.get(hash((prompt, chosen, rejected)))
        if same is not None:
            yield "duplicate", f"as {self._place(same)}: {pair.prompt}"
        opposite = self._seen.get(hash((prompt, rejected, chosen)))
        if opposite is not None:
            yield "contradiction", f"against {self._place(opposite)}: {pair.prompt}"

    def _place(self, packed: int) -> str:
        return f"{self._names[packed >> ROW_BITS]}, row {packed & ((1 << ROW_BITS) - 1):,}"

    def _record(
        self, name: str, found: dict[str, Tally], dropped: dict[str, Tally], total: int
    ) -> None:
        for kind, label in LABELS.items():
            about = BY_ID[kind]
            if found[kind].count:
                self.findings.append(
                    Finding(
                        id=kind,
                        severity=about.severity,
                        label=label,
                        count=found[kind].count,
                        share=found[kind].count / max(1, total),
                        rows=tuple(found[kind].rows),
                        examples=tuple(found[kind].examples),
                        fix="Keep the first file's" if kind == "duplicate" else about.fix,
                        fixed=kind in self._fixes,
                        advice=about.advice,
                        file=name,
                    )
                )
            if dropped[kind].count:
                rows, count = tuple(dropped[kind].rows), dropped[kind].count
                self.drops.append(Drop(reason=kind, label=label, rows=rows, count=count, file=name))

    def remember(self, name: str, pairs: Iterable[NumberedPreference]) -> None:
        """Take note of the pairs taken from a file, for the files after it."""
        file = len(self._names) << ROW_BITS
        self._names.append(name)
        for numbered in pairs:
            self._seen.setdefault(hash(digests(numbered.pair)), file | numbered.row)
            self.lengths.add(numbered.pair)
