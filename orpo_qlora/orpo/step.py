"""One optimizer step, or one evaluation, micro-step by micro-step. Floor 2."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from peft import PeftModel
from torch import Tensor

from orpo_qlora.models.hardware import (
    forget_peak_memory,
    peak_memory_bytes,
    peak_reserved_bytes,
)
from orpo_qlora.orpo.engine import Engine
from orpo_qlora.orpo.loss import Loss
from orpo_qlora.orpo.objectives.base import CHOSEN, Terms
from orpo_qlora.orpo.objectives.measurements import OF_PAIRS, compare_responses
from orpo_qlora.orpo.reference import NEEDS, digest_of
from orpo_qlora.orpo.rows.tokens import TokenizedPair

Record = dict[str, float]


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
        reserved = peak_reserved_bytes()
        return {
            **dict(zip(values, numbers, strict=True)),
            "pairs": self._count,
            "tokens": self.tokens,
            "seconds": time.perf_counter() - self._started,
            "peak_memory_bytes": peak_memory_bytes(),
            "forwards": self.forwards,
            **({"reserved_memory_bytes": reserved} if reserved else {}),
        }


def accumulate_step(
    engine: Engine,
    pairs: Sequence[TokenizedPair],
    loss: Loss,
    tokens_per_forward: int,
    backward: Callable[[Tensor], None],
) -> Record:
    """Add the gradient of one optimizer step to the policy's, micro-step by micro-step.

    Args:
        engine: computes the log-probs.
        pairs: all pairs of the step.
        loss: of the training.
        tokens_per_forward: cuts the step into micro-steps; changes no result.
        backward: called with each micro-step's share of the loss, a scalar.

    Returns:
        The step's metrics; `loss` is the sum of the shares.
    """
    stats = _StepStats()
    totals = loss.totals(pairs)
    if loss.needs.mismatched:
        drift = measure_drift(engine, pairs, loss, tokens_per_forward)
        totals = replace(totals, drift=drift.nats)
        stats.add_work(drift.tokens, drift.forwards)
    for group in engine.micro_steps(pairs, tokens_per_forward):
        sums, tokens = engine.measure(group)
        terms = loss.terms(group, sums, totals)
        backward(terms.loss)
        stats.add(terms, len(group), has_single=sums.has_single)
        stats.add_work(tokens, engine.forwards(group))
    return stats.record()


@dataclass(frozen=True)
class Drift:
    """The policy's distance from the reference on mismatched responses."""

    nats: Tensor
    """Mean summed log-prob minus the reference's, at least 0; a scalar."""
    tokens: int
    forwards: int


@torch.no_grad()
def measure_drift(
    engine: Engine, pairs: Sequence[TokenizedPair], loss: Loss, tokens_per_forward: int
) -> Drift:
    """Return the drift of a step of pairs; see `accumulate_step`."""
    engine = replace(engine, needs=NEEDS)
    gains, sent, responses = [], 0, 0
    mismatched = [loss.mismatched[digest_of(pair)] for pair in pairs]
    for group in engine.micro_steps(mismatched, tokens_per_forward):
        measured, tokens = engine.measure(group)
        reference = loss.reference.sums(group, measured.sums)
        gains.append((measured.sums - reference)[:, CHOSEN:].sum())
        responses += sum(1 if pair.is_single else 2 for pair in group)
        sent += tokens
    nats = (torch.stack(gains).sum() / responses).clamp(min=0)
    return Drift(nats, sent, engine.forwards(mismatched))


def of_reference(record: Record) -> Record:
    """Return the metrics of a policy that is the reference, without the rounding of differences.

    Log-ratios are 0; an accuracy of rewards that are all equal means nothing and is left out.
    """
    zero = ("rewards/chosen", "rewards/rejected", "rewards/margins", "kl")
    kept = {name: value for name, value in record.items() if name != "rewards/accuracies"}
    return {name: 0.0 if name in zero else value for name, value in kept.items()}


@torch.no_grad()
def measure_pairs(
    engine: Engine, pairs: Sequence[TokenizedPair], loss: Loss, tokens_per_forward: int
) -> Record:
    """Return the metrics of pairs without gradients; see `accumulate_step`."""
    policy: PeftModel = engine.policy
    was_training = policy.training
    policy.eval()
    try:
        return accumulate_step(engine, pairs, loss, tokens_per_forward, lambda _: None)
    finally:
        policy.train(was_training)
