"""One optimizer step, or one evaluation, micro-step by micro-step. Floor 2."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, float32, float64

from orpo_qlora.models.devices.hardware import (
    forget_peak_memory,
    peak_memory_bytes,
    peak_reserved_bytes,
)
from orpo_qlora.orpo.engine import Engine
from orpo_qlora.orpo.loss import Loss
from orpo_qlora.orpo.objectives.base import CHOSEN, Terms
from orpo_qlora.orpo.objectives.measurements import OF_PAIRS, compare_responses
from orpo_qlora.orpo.processes.ranks import ALONE, Ranks
from orpo_qlora.orpo.reference import NEEDS, digest_of
from orpo_qlora.orpo.rows.tokens import TokenizedPair

Record = dict[str, float]


@dataclass(frozen=True)
class _Share:
    """What one rank measured of a step: sums and counts, as plain numbers."""

    parts: dict[str, float]
    sums: dict[str, float]
    counts: dict[str, int]
    values: dict[str, list[float]]
    """Of every pair, where single responses are compared with each other."""
    work: dict[str, float]
    seconds: float
    memory: dict[str, float]


class _StepStats:
    """Accumulates the terms of the micro-steps of one step or of one evaluation."""

    def __init__(self) -> None:
        self._parts: defaultdict[str, list[Tensor]] = defaultdict(list)
        self._pairs: defaultdict[str, list[Tensor]] = defaultdict(list)
        self._count = 0
        self._has_single = False
        self.tokens = 0
        self.forwards = 0
        forget_peak_memory()
        self._started = time.perf_counter()

    def add(self, terms: Terms, pairs: int, *, has_single: bool) -> None:
        """Add one micro-step of some pairs."""
        for name, part in {"loss": terms.loss.detach(), **terms.parts}.items():
            self._parts[name].append(part)
        for name, values in terms.pairs.items():
            self._pairs[name].append(values)
        self._count += pairs
        self._has_single |= has_single

    def add_work(self, tokens: int, forwards: int) -> None:
        """Add what the model computed: tokens, and sequences of a prompt with one response."""
        self.tokens += tokens
        self.forwards += forwards

    def record(self) -> Record:
        """Return the metrics, with a single transfer from the device."""
        values = {name: torch.stack(shares).sum() for name, shares in self._parts.items()}
        pairs = {name: torch.cat(parts) for name, parts in self._pairs.items()}
        values |= {name: each.mean() for name, each in pairs.items() if each.numel()}
        if self._has_single:
            values = {name: value for name, value in values.items() if name not in OF_PAIRS}
            values |= compare_responses(pairs)
        numbers = torch.stack(list(values.values())).tolist()
        return {
            **dict(zip(values, numbers, strict=True)),
            "pairs": self._count,
            "tokens": self.tokens,
            "seconds": time.perf_counter() - self._started,
            **_memory(),
            "forwards": self.forwards,
        }

    def share(self, *, has_single: bool) -> _Share:
        """Return this rank's part of the metrics.

        Args:
            has_single: whether the step, on any rank, has single responses.
        """
        pairs = {name: torch.cat(parts).tolist() for name, parts in self._pairs.items()}
        return _Share(
            parts={name: float(torch.stack(x).sum()) for name, x in self._parts.items()},
            sums={name: sum(values) for name, values in pairs.items()},
            counts={name: len(values) for name, values in pairs.items()},
            values=pairs if has_single else {},
            work={"pairs": self._count, "tokens": self.tokens, "forwards": self.forwards},
            seconds=time.perf_counter() - self._started,
            memory=_memory(),
        )


def _memory() -> Record:
    """Return the peak of memory in use, and of what torch holds where it says so."""
    reserved = peak_reserved_bytes()
    held = {"reserved_memory_bytes": float(reserved)} if reserved else {}
    return {"peak_memory_bytes": peak_memory_bytes(), **held}


def _combined(shares: Sequence[_Share], *, has_single: bool) -> Record:
    """Return the metrics of a step from the parts of all ranks."""
    values = _added(share.parts for share in shares)
    sums, counts = _added(x.sums for x in shares), _added(x.counts for x in shares)
    values |= {name: total / counts[name] for name, total in sums.items() if counts[name]}
    if has_single:
        values = {name: value for name, value in values.items() if name not in OF_PAIRS}
        every = {name: _every(shares, name) for name in sums}
        values |= {name: float(value) for name, value in compare_responses(every).items()}
    return {
        **values,
        **_added(share.work for share in shares),
        "seconds": max(share.seconds for share in shares),
        **{name: max(x.memory[name] for x in shares) for name in shares[0].memory},
    }


def _every(shares: Sequence[_Share], name: str) -> Tensor:
    return torch.tensor(
        list(chain(*(share.values.get(name, ()) for share in shares))), dtype=float64
    )


def _added(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0) + value
    return total


def accumulate_step(
    engine: Engine,
    pairs: Sequence[TokenizedPair],
    loss: Loss,
    tokens_per_forward: int,
    backward: Callable[[Tensor], None],
    ranks: Ranks = ALONE,
) -> Record:
    """Add the gradient of one optimizer step to the policy's, micro-step by micro-step.

    With several ranks each adds that of its own pairs, and the gradients are yet to be summed.

    Args:
        engine: computes the log-probs.
        pairs: all pairs of the step.
        loss: of the training.
        tokens_per_forward: cuts the step into micro-steps; changes no result.
        backward: called with each micro-step's share of the loss, a scalar.
        ranks: the processes that share the step.

    Returns:
        The metrics of the whole step; `loss` is the sum of the shares.

    Raises:
        Exception: whatever a rank raises, on all of them; see `Ranks.gather`.
    """
    stats = _StepStats()
    totals = loss.totals(pairs)
    if loss.needs.mismatched:
        drift = measure_drift(engine, pairs, loss, tokens_per_forward, ranks)
        totals = replace(totals, drift=drift.nats)
        stats.add_work(drift.tokens, drift.forwards)

    def add_micro_steps() -> None:
        groups, idle = engine.portion(pairs, tokens_per_forward, ranks)
        for group in groups:
            sums, tokens = engine.measure(group)
            terms = loss.terms(group, sums, totals)
            backward(terms.loss)
            stats.add(terms, len(group), has_single=sums.has_single)
            stats.add_work(tokens, engine.forwards(group))
        for group in idle:
            backward(0 * engine.measure(group)[0].sums.sum())

    if ranks.size == 1:
        add_micro_steps()
        return stats.record()
    has_single = any(pair.is_single for pair in pairs)

    def measure_share() -> dict[str, Any]:
        add_micro_steps()
        return asdict(stats.share(has_single=has_single))

    shares = [_Share(**share) for share in ranks.gather(measure_share)]
    return _combined(shares, has_single=has_single)


@dataclass(frozen=True)
class Drift:
    """The policy's distance from the reference on mismatched responses."""

    nats: Tensor
    """Mean summed log-prob minus the reference's, at least 0; a scalar."""
    tokens: int
    """Sent through the model by this rank."""
    forwards: int
    """Of this rank."""


@torch.no_grad()
def measure_drift(
    engine: Engine,
    pairs: Sequence[TokenizedPair],
    loss: Loss,
    tokens_per_forward: int,
    ranks: Ranks = ALONE,
) -> Drift:
    """Return the drift of a step of pairs; see `accumulate_step`."""
    engine = replace(engine, needs=NEEDS)
    gains: list[Tensor] = []
    sent = 0
    precision = float64 if engine.policy.get_base_model().dtype == float64 else float32
    mismatched = [loss.mismatched[digest_of(pair)] for pair in pairs]
    mine = engine.share(mismatched, ranks)

    def measure_share() -> float | None:
        nonlocal sent
        groups, idle = engine.portion(mismatched, tokens_per_forward, ranks)
        for group in groups:
            measured, tokens = engine.measure(group)
            reference = loss.reference.sums(group, measured.sums)
            gains.append((measured.sums - reference)[:, CHOSEN:].sum())
            sent += tokens
        for group in idle:
            engine.measure(group)
        return float(torch.stack(gains).sum()) if gains else None

    totals = [total for total in ranks.gather(measure_share) if total is not None]
    responses = sum(1 if pair.is_single else 2 for pair in mismatched)
    mean = torch.tensor(sum(totals), dtype=precision, device=engine.policy.device) / responses
    return Drift(mean.clamp(min=0), sent, engine.forwards(mine))


def of_reference(record: Record) -> Record:
    """Return the metrics of a policy that is the reference, without the rounding of differences.

    Log-ratios are 0; an accuracy of rewards that are all equal means nothing and is left out.
    """
    zero = ("rewards/chosen", "rewards/rejected", "rewards/margins", "kl")
    kept = {name: value for name, value in record.items() if name != "rewards/accuracies"}
    return {name: 0.0 if name in zero else value for name, value in kept.items()}


@torch.no_grad()
def measure_pairs(
    engine: Engine,
    pairs: Sequence[TokenizedPair],
    loss: Loss,
    tokens_per_forward: int,
    ranks: Ranks = ALONE,
) -> Record:
    """Return the metrics of pairs without gradients; see `accumulate_step`."""
    policy: PeftModel = engine.policy
    was_training = policy.training
    policy.eval()
    try:
        return accumulate_step(engine, pairs, loss, tokens_per_forward, lambda _: None, ranks)
    finally:
        policy.train(was_training)
