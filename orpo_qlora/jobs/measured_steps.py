"""The cost of a training step, measured, and of the whole run. Floor 4.

The longest pairs that a forward of the run may hold are trained on with the run's own engine,
optimizer and settings. Seconds are counted a token, so pairs of any length follow.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from orpo_qlora.config import TrainConfig
from orpo_qlora.jobs import interactive
from orpo_qlora.jobs.estimation import Seconds
from orpo_qlora.methods import method_of
from orpo_qlora.models.devices.hardware import peak_memory_bytes
from orpo_qlora.models.devices.memory import footprint, shape_of
from orpo_qlora.orpo.engine import Engine
from orpo_qlora.orpo.processes.ranks import assign
from orpo_qlora.orpo.rows.batches import steps_an_epoch, total_steps, training_batches
from orpo_qlora.orpo.rows.packing import cost_in_tokens
from orpo_qlora.orpo.rows.tokens import TokenizedPair
from orpo_qlora.orpo.schedule import evaluation_every
from orpo_qlora.orpo.step import Record
from orpo_qlora.orpo.trainer import OrpoTrainer

MOST_STEPS = 3
ENOUGH_SECONDS = 3.0
"""A first step also warms up; where it took less than this, it is taken again and not counted."""
MOST_DIVIDED = 1000
"""Steps whose division among several processes is computed."""


class Trial:
    """Collects the measured steps (see `orpo.trainer.RunCallback`)."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.steps: list[Record] = []
        self.evaluations: list[Record] = []
        self.moments: list[float] = [time.perf_counter()]
        """Start of training, then the end of each step."""

    @property
    def peak_bytes(self) -> int:
        """Peak memory of the measured steps and evaluations."""
        records = [*self.steps, *self.evaluations]
        peaks = [v for r in records for n, v in r.items() if n.endswith("peak_memory_bytes")]
        return int(max(peaks, default=0))

    def on_step(self, record: Record) -> None:
        """Keep what a step took."""
        self.steps.append(record)
        self.moments.append(time.perf_counter())

    def on_evaluation(self, record: Record) -> None:
        """Keep what an evaluation took."""
        self.evaluations.append(record)

    def on_phase(self, phase: str) -> None:
        """Ignore it: the estimate reports its own phases."""

    def on_note(self, note: str) -> None:
        """Keep what the user should know."""
        self.notes.append(note)

    def should_stop(self) -> bool:
        """Whether enough was measured."""
        waited = interactive.wait_for_answer()  # not part of a step's time
        self.moments = [moment + waited for moment in self.moments]
        return time.perf_counter() - self.moments[0] > ENOUGH_SECONDS

    def on_checkpoint(self, step: int, write: Callable[[Path], None]) -> None:
        """Write nothing: the trained weights are discarded."""


@dataclass(frozen=True)
class ExpectedRun:
    """What a run with these settings does, in counts."""

    steps: int
    evaluations: int
    samples: int
    training_tokens: float
    evaluation_tokens: float
    """Of all evaluations together, and of the reference where the loss needs it."""

    def shared(self, shares: Shares) -> ExpectedRun:
        """Return what the process with most to compute does."""
        return replace(
            self,
            training_tokens=self.training_tokens * shares.training,
            evaluation_tokens=self.evaluation_tokens * shares.evaluation,
        )


@dataclass(frozen=True)
class Shares:
    """The part of all tokens that the process with most of them computes."""

    training: float
    """Mean over the steps of an epoch: the others wait for it in each."""
    evaluation: float


@dataclass(frozen=True)
class TrialResult:
    """What the measured steps took."""

    seconds_a_token: float
    seconds_a_step: float
    """Of the optimizer, independent of the tokens."""
    seconds_a_token_measured: float
    """Without a gradient, in an evaluation."""
    tokens_per_forward: int
    peak_bytes: int
    bytes_a_token: int
    """Predicted; 0 for an architecture that the memory model does not know."""
    missing_tokens: int
    """How many more tokens a forward of the run may hold than the largest measured one."""

    def seconds_of(self, run: ExpectedRun) -> Seconds:
        """Return the time of a run's steps and evaluations."""
        training = run.training_tokens * self.seconds_a_token + run.steps * self.seconds_a_step
        return Seconds(
            training=training, evaluation=run.evaluation_tokens * self.seconds_a_token_measured
        )


def expected_run(
    config: TrainConfig,
    engine: Engine,
    train: Sequence[TokenizedPair],
    held_out: Sequence[TokenizedPair],
) -> ExpectedRun:
    """Return what a run does with these pairs."""
    steps = total_steps(config, len(train))
    per_epoch = steps_an_epoch(len(train), config.pairs_per_step)
    epochs, rest = divmod(steps, per_epoch)
    seen = epochs * len(train) + min(len(train), rest * config.pairs_per_step)
    every = evaluation_every(config, steps)
    inner = [step for step in range(every, steps, every)] if held_out else []
    # Of the base, of an adapter to start from, and after the last step.
    evaluations = len(inner) + 2 + bool(config.start_from) if held_out else 0
    # All pairs of an evaluation share prompts; those of a step only where it is meant to.
    measured_tokens = evaluations * engine.tokens(held_out)
    pass_tokens = engine.tokens(train) if config.group_by_prompt else sum(_costs(engine, train))
    training_tokens = seen * pass_tokens / len(train)
    needs = method_of(config).needs(config)
    if needs.reference:
        measured_tokens += engine.tokens([*train, *held_out])
    if needs.mismatched:  # about as many tokens again, in every step and evaluation
        training_tokens, measured_tokens = 2 * training_tokens, 2 * measured_tokens
    return ExpectedRun(
        steps=steps,
        evaluations=evaluations,
        samples=len(inner) + 2,
        training_tokens=training_tokens,
        evaluation_tokens=measured_tokens,
    )


def expected_shares(
    config: TrainConfig,
    engine: Engine,
    train: Sequence[TokenizedPair],
    held_out: Sequence[TokenizedPair],
    processes: int,
) -> Shares:
    """Return how evenly the steps of a run are divided, by the steps of its first epoch."""
    steps = islice(training_batches(train, config, lambda: 0), MOST_DIVIDED)
    loads = [_loads(engine, step, processes) for step in steps]
    measured = _loads(engine, held_out or train, processes)
    return Shares(
        training=sum(map(max, loads)) / sum(map(sum, loads)),
        evaluation=max(measured) / sum(measured),
    )


def _loads(engine: Engine, pairs: Sequence[TokenizedPair], processes: int) -> list[int]:
    """Return the tokens of each process, divided as `Engine.share` does."""
    costs = [engine.tokens(unit) for unit in engine.units(pairs)]
    loads = [0] * processes
    for cost, place in zip(costs, assign(costs, processes), strict=True):
        loads[place] += cost
    return loads


def try_steps(
    engine: Engine,
    config: TrainConfig,
    train: Sequence[TokenizedPair],
    held_out: Sequence[TokenizedPair],
    trial: Trial,
) -> TrialResult:
    """Train on the longest pairs of a run and return what it took.

    Raises:
        OutOfMemory: not even single pairs with recomputed activations fit.
        NonFiniteLoss: the loss is not a number.
    """
    # The longest pairs of both sides decide how the memory is used, as in the run.
    longest = _longest_first(engine, train)[: config.pairs_per_step]
    longest_held_out = _longest_first(engine, held_out)[: config.pairs_per_step]
    changes = {"max_steps": MOST_STEPS, "eval_every": MOST_STEPS + 1}
    short = config.model_copy(update=changes)
    trainer = OrpoTrainer(engine, short, longest, longest_held_out, trial)
    budget = trainer.budget.tokens
    trainer.pairs = _within(engine, longest, budget)
    trainer.held_out = _within(engine, longest_held_out, budget)
    trainer.has_base_evaluation = True
    trainer.measure_reference()
    loaded_bytes = peak_memory_bytes()  # every step resets a GPU's
    trial.moments = [time.perf_counter()]
    trainer.train()
    if not trial.evaluations:  # stopped early
        trainer.evaluate()

    last, wall = trial.steps[-1], trial.moments[-1] - trial.moments[-2]
    first_pass = trial.evaluations[0] if trial.evaluations else None
    tried = engine.tokens(trainer.pairs)
    fullest = min(trainer.budget.tokens, sum(_costs(engine, longest)))
    return TrialResult(
        seconds_a_token=last["seconds"] / last["tokens"],
        seconds_a_step=max(0.0, wall - last["seconds"]),
        seconds_a_token_measured=(
            first_pass["eval/seconds"] / first_pass["eval/tokens"] if first_pass else 0.0
        ),
        tokens_per_forward=trainer.budget.tokens,
        peak_bytes=max(loaded_bytes, trial.peak_bytes),
        bytes_a_token=_bytes_a_token(engine, config, recomputes=trainer.memory.recomputes),
        missing_tokens=max(0, fullest - tried),
    )


def _costs(engine: Engine, pairs: Sequence[TokenizedPair]) -> list[int]:
    return [cost_in_tokens(pair, engine.layout, engine.needs) for pair in pairs]


def _longest_first(engine: Engine, pairs: Sequence[TokenizedPair]) -> list[TokenizedPair]:
    return sorted(pairs, key=lambda pair: -cost_in_tokens(pair, engine.layout, engine.needs))


def _within(engine: Engine, pairs: list[TokenizedPair], budget: int) -> list[TokenizedPair]:
    """Return the first pairs that one forward holds, at least one if there are any."""
    held, filled = pairs[:1], sum(_costs(engine, pairs[:1]))
    for pair, cost in zip(pairs[1:], _costs(engine, pairs[1:]), strict=True):
        if filled + cost <= budget:
            held.append(pair)
            filled += cost
    return held


def _bytes_a_token(engine: Engine, config: TrainConfig, *, recomputes: bool) -> int:
    base = engine.policy.get_base_model()
    try:
        shape = shape_of(base.config.to_dict())
    except KeyError:
        return 0
    plan = footprint(
        shape,
        config.lora_r,
        base.dtype.itemsize,
        recomputes=recomputes,
        device=engine.policy.device.type,
    )
    return plan.per_token + plan.block_per_token
