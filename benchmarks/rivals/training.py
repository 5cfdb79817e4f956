"""One training of the study, in a process that has loaded the base model once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import set_seed
from transformers.utils import logging

from benchmarks.rivals import study
from benchmarks.rivals.results import PairLogps, Training
from orpo_qlora.models.loading import ADAPTER, attach_new_adapter, load_base
from orpo_qlora.orpo.engine import Engine, build_engine
from orpo_qlora.orpo.loss import needs_of
from orpo_qlora.orpo.reference import NEEDS, Measuring, digest_of
from orpo_qlora.orpo.rows.tokens import TokenizedPair, tokenize_pairs
from orpo_qlora.orpo.step import Record
from orpo_qlora.orpo.trainer import OrpoTrainer

TOKENS_PER_FORWARD = 1024
KEPT_METRICS = ("loss", "logps/chosen", "logps/rejected", "log_odds_ratio", "seconds", "forwards")


@dataclass(frozen=True)
class Bench:
    """What all trainings of a process share."""

    engine: Engine
    train: Sequence[TokenizedPair]
    held_out: Sequence[TokenizedPair]


_bench: Bench


def prepare(data: Path, threads: int) -> None:
    """Load the base and the pairs; called once a process."""
    global _bench
    os.setsid()  # as the worker of a run
    torch.set_num_threads(threads)
    logging.disable_progress_bar()
    split = study.split_of(data)
    config = study.config_of(study.SFT, study.SEEDS[0])
    base = load_base(config.model)
    train, held_out = (
        tokenize_pairs(base.tokenizer, pairs, config.max_length, "drop").pairs
        for pairs in (split.train, split.held_out)
    )
    policy = attach_new_adapter(base, config)
    _bench = Bench(build_engine(policy, NEEDS, train), train, held_out)


def measure(pairs: Sequence[TokenizedPair]) -> PairLogps:
    """Return the mean token log-probs of both responses of pairs under the policy as it is now."""
    policy = _bench.engine.policy
    policy.eval()
    measuring = Measuring(_bench.engine, pairs)
    measuring.run(TOKENS_PER_FORWARD)
    sums = [measuring.known[digest_of(pair)] for pair in pairs]
    return PairLogps(
        chosen=[one[0] / len(pair.chosen) for one, pair in zip(sums, pairs, strict=True)],
        rejected=[one[1] / len(pair.rejected) for one, pair in zip(sums, pairs, strict=True)],
    )


def measure_base() -> PairLogps:
    """Return the log-probs of all pairs, held-out ones first, under the base."""
    with _bench.engine.policy.disable_adapter():
        return measure([*_bench.held_out, *_bench.train])


class _Recorder:
    """Keeps the metrics of every step, and measures the held-out pairs after some."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.steps: list[Record] = []
        self.held_out: dict[int, PairLogps] = {}

    def on_step(self, record: Record) -> None:
        self.steps.append({name: record[name] for name in KEPT_METRICS if name in record})
        step = int(record["step"])
        if step in study.MEASURED_AT:
            self.held_out[step] = measure(_bench.held_out)
            print(f"{self.name}: step {step}", flush=True)

    def on_phase(self, phase: str) -> None:
        """Ignore it."""

    def on_evaluation(self, record: Record) -> None:
        """Never called: the trainer has no held-out pairs."""

    def on_note(self, note: str) -> None:
        """Ignore it."""

    def on_checkpoint(self, step: int, write: Callable[[Path], None]) -> None:
        """Write none."""

    def should_stop(self) -> bool:
        return False


def train(name: str, seed: int) -> Training:
    """Train a variant with a seed from a new adapter and return what was measured."""
    config = study.config_of(study.VARIANTS[name], seed)
    _reset_adapter(seed)
    recorder = _Recorder(f"{name}, seed {seed}")
    engine = replace(_bench.engine, needs=needs_of(config))
    OrpoTrainer(engine, config, _bench.train, [], recorder).train()
    return Training(name, seed, config.learning_rate, recorder.steps, recorder.held_out)


def _reset_adapter(seed: int) -> None:
    """Give the adapter the initial weights of a seed."""
    set_seed(seed)
    for module in _bench.engine.policy.modules():
        if hasattr(module, "reset_lora_parameters"):
            module.reset_lora_parameters(ADAPTER, init_lora_weights=True)
