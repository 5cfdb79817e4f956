"""Log-probs under the reference: measured once a data set and base, kept on disk. Floor 2.

The reference is the policy as training begins: the base, or the adapter a run starts from. Its
log-probs never change, so no second model is in memory and no step computes them again. The file
grows by whole lines while they are measured; a killed worker's is continued. No error of the disk
fails a run.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor

from orpo_qlora import storage
from orpo_qlora.errors import CheckpointError, DiskFull, NonFiniteLoss
from orpo_qlora.orpo.engine import Engine
from orpo_qlora.orpo.objectives.base import CHOSEN, REJECTED
from orpo_qlora.orpo.processes.ranks import ALONE, Ranks
from orpo_qlora.orpo.rows.packing import Needs
from orpo_qlora.orpo.rows.tokens import TokenizedPair

log = logging.getLogger(__name__)

VERSION = 1
"""Increased whenever the same pairs would be measured differently."""
KEPT_FILES = 16
PHASE = "measuring the reference"
REPORT_SECONDS = 1.0
NEEDS = Needs(prompt=False, rejected=True)

Sums = tuple[float, float]
"""Summed log-probs of the chosen and of the rejected response, in nats."""


def digest_of(pair: TokenizedPair) -> str:
    """Return what identifies a pair: its tokens, which template and length policy have shaped."""
    text = json.dumps((pair.prompt, pair.chosen, pair.rejected), separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Reference:
    """Summed log-probs of pairs under the reference, by `digest_of`."""

    known: Mapping[str, Sums] = field(default_factory=dict)

    def sums(self, pairs: Sequence[TokenizedPair], like: Tensor) -> Tensor:
        """Return the sums of B pairs in the type and on the device of `like`.

        Returns:
            Shape (B, 3) as `PairSums.sums`; the prompt's column is 0.

        Raises:
            KeyError: a pair was never measured.
        """
        rows = [(0.0, *self.known[digest_of(pair)]) for pair in pairs]
        return torch.tensor(rows, dtype=like.dtype, device=like.device)

    def has(self, pairs: Sequence[TokenizedPair]) -> bool:
        """Whether all pairs were measured."""
        return bool(self.known) and all(digest_of(pair) in self.known for pair in pairs)


def as_reference(
    policy: PeftModel, *, starts_trained: bool = False
) -> AbstractContextManager[object]:
    """Return a context in which a policy that has taken no step is its own reference.

    Args:
        policy: before its first step.
        starts_trained: whether its adapter was trained before and so belongs to the reference. A
            new adapter is switched off: it computes nothing yet.
    """
    return nullcontext() if starts_trained else policy.disable_adapter()


class ReferenceFile:
    """Keeps measured sums on disk: in the cache while they are measured, then also in the run.

    A run that is resumed reads its own copy, so its steps do not depend on the cache.

    Args of the constructor: the cache folder, the run's copy, and what the sums depend on, as text.
    """

    def __init__(self, cache: Path, copy: Path, identity: Mapping[str, str]) -> None:
        self._identity = {"version": str(VERSION), **identity}
        name = hashlib.sha256(json.dumps(self._identity, sort_keys=True).encode()).hexdigest()[:32]
        self.path, self.copy = cache / f"{name}.jsonl", copy
        self._lines: storage.JsonLines | None = None

    def read(self) -> dict[str, Sums]:
        """Return what is known, from the run's copy or else from the cache.

        Raises:
            CheckpointError: the file holds the log-probs of another reference.
        """
        for path in (self.copy, self.path):
            known = self._read(path)
            if known:
                log.info("reference log-probs of %d pairs taken from %s", len(known), path)
                return known
        return {}

    def _read(self, path: Path) -> dict[str, Sums]:
        try:
            records, _ = storage.read_json_lines(path)
        except OSError as exc:
            log.info("%s cannot be read: %s", path, exc)
            return {}
        if not records:
            return {}
        if records[0].get("identity") != self._identity:
            raise CheckpointError(
                f"The reference log-probs in {path.name} belong to another base or other pairs.",
                where=str(path),
                hint=f"Delete {path}; they are then measured again.",
            )
        known: dict[str, Sums] = {}
        for record in records[1:]:
            with suppress(KeyError, TypeError, ValueError):  # a damaged line is measured again
                sums = (float(record["chosen"]), float(record["rejected"]))  # type: ignore[arg-type]
                known.setdefault(str(record["pair"]), sums)
        return known

    def append(self, measured: Mapping[str, Sums]) -> None:
        """Add the sums of a forward."""
        try:
            lines = self._lines or self._opened()
            for pair, (chosen, rejected) in measured.items():
                lines.append({"pair": pair, "chosen": chosen, "rejected": rejected})
        except (OSError, DiskFull) as exc:
            log.info("reference log-probs were not kept: %s", exc)

    def _opened(self) -> storage.JsonLines:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lines = storage.JsonLines(self.path)
        if not self.path.stat().st_size:
            self._lines.append({"identity": self._identity})
        for old in storage.oldest_first(self.path.parent.glob("*.jsonl"))[:-KEPT_FILES]:
            old.unlink(missing_ok=True)
        return self._lines

    def finish(self, known: Mapping[str, Sums]) -> None:
        """Close the file and give the run its copy."""
        if self._lines is not None:
            self._lines.close()
            self._lines = None
        if self.copy.exists():
            return
        records: list[dict[str, object]] = [{"identity": self._identity}]
        records += [{"pair": p, "chosen": c, "rejected": r} for p, (c, r) in known.items()]
        try:
            storage.write_whole(self.copy, (json.dumps(record) + "\n" for record in records))
        except (OSError, DiskFull) as exc:
            log.info("the run has no copy of the reference log-probs: %s", exc)


@dataclass
class Measuring:
    """A measurement of the reference in progress."""

    engine: Engine
    pairs: Sequence[TokenizedPair]
    known: dict[str, Sums] = field(default_factory=dict)
    file: ReferenceFile | None = None
    on_phase: Callable[[str], None] = lambda _: None
    should_stop: Callable[[], bool] = lambda: False
    ranks: Ranks = ALONE

    @torch.no_grad()
    def run(self, tokens_per_forward: int) -> bool:
        """Measure what is not known yet, under the policy as it is now, dropout off.

        The cut into forwards depends neither on what is known nor on the number of ranks, so a
        measurement that was interrupted, or shared, gives the same numbers as a whole one. The
        ranks take turns: groups are sorted by length, so those of one turn take about as long.

        Returns:
            False when stopped before the end.

        Raises:
            NonFiniteLoss: a log-prob is not a finite number.
        """
        engine = replace(self.engine, needs=NEEDS)
        reported = -math.inf
        groups = engine.micro_steps(self.pairs, tokens_per_forward)
        # Every rank knows the same, so all leave out the same groups.
        left = [group for group in groups if self._missing(group)]
        for start in range(0, len(left), self.ranks.size):
            turn = left[start : start + self.ranks.size]
            if not any(map(self._missing, turn)):
                continue
            if self.ranks.any(self.should_stop()):
                return False
            if time.monotonic() - reported > REPORT_SECONDS:
                self.on_phase(f"{PHASE}: {len(self.known):,} of {len(self.pairs):,} pairs")
                reported = time.monotonic()
            mine = turn[self.ranks.rank : self.ranks.rank + 1]
            if self.ranks.shards_base and not mine:
                mine = turn[:1]  # all run as many forwards
            for fresh in self.ranks.gather(partial(self._measured, engine, mine)):
                self._keep(fresh)
        return True

    def _missing(self, group: Sequence[TokenizedPair]) -> set[str]:
        return {digest_of(pair) for pair in group} - self.known.keys()

    def _measured(self, engine: Engine, groups: list[list[TokenizedPair]]) -> dict[str, Sums]:
        """Return the sums of this rank's forward, if it has one in this turn."""
        fresh: dict[str, Sums] = {}
        for group in groups:
            fresh |= self._sums(engine, group)
        return fresh

    def _sums(self, engine: Engine, group: list[TokenizedPair]) -> dict[str, Sums]:
        measured, _ = engine.measure(group)
        missing = self._missing(group)
        fresh: dict[str, Sums] = {}
        for pair, row in zip(group, measured.sums.tolist(), strict=True):
            if not (math.isfinite(row[CHOSEN]) and math.isfinite(row[REJECTED])):
                raise NonFiniteLoss(
                    "The reference's log-prob of a response is not a finite number.",
                    where=f"row {pair.row}",
                    hint=f"Check row {pair.row} of the data, or compute in float32.",
                )
            if digest_of(pair) in missing:
                fresh[digest_of(pair)] = (row[CHOSEN], row[REJECTED])
        return fresh

    def _keep(self, fresh: Mapping[str, Sums]) -> None:
        new = {pair: (c, r) for pair, (c, r) in fresh.items() if pair not in self.known}
        self.known |= new
        if self.file is not None and new:
            self.file.append(new)
