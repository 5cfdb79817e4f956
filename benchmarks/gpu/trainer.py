"""One trainer on one shape, cell by cell: `python -m benchmarks.gpu.trainer ours llama-8b …`.

Appends a line of JSON to the output after each cell, so that what was measured survives when time
or memory runs out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch.utils.data import SequentialSampler
from transformers import PreTrainedTokenizerBase, TrainerCallback
from trl.experimental.orpo import ORPOTrainer

from benchmarks.gpu.shapes import CELLS, SHAPES, pairs_of, random_policy
from benchmarks.peers.ours import NoCallback, TrainerInFileOrder
from benchmarks.peers.turns import forget_peak, peak_bytes, resident_bytes
from orpo_qlora.config import build_config
from orpo_qlora.models.devices import hardware
from orpo_qlora.orpo.engine import build_engine, restore_modules
from orpo_qlora.orpo.loss import needs_of
from orpo_qlora.orpo.rows.tokens import TokenizedPair
from orpo_qlora.orpo.verify.trl_steps import trl_arguments, trl_features, trl_trainer

LAMBDA = 0.1
WARM_UP = 2


@dataclass(frozen=True)
class Measured:
    """Median step of a trainer on a cell."""

    shape: str
    cell: str
    trainer: str
    pairs_per_step: int
    tokens_per_step: float
    """Prompt, chosen and rejected tokens, each once."""
    steps: int
    seconds: float
    bytes_above_weights: float
    reserved_bytes: float
    loss: float
    """Of the first step."""
    note: str
    error: str = ""


class _Clock(TrainerCallback):
    """Times whole optimizer steps."""

    def __init__(self, most_seconds: float) -> None:
        self.seconds: list[float] = []
        self._started = 0.0
        self._ends = time.perf_counter() + most_seconds

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Wait for the device and start."""
        _synchronize()
        self._started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Wait for the device and note the seconds; stop after the time limit."""
        _synchronize()
        self.seconds.append(time.perf_counter() - self._started)
        if time.perf_counter() > self._ends and len(self.seconds) > WARM_UP:
            control.should_training_stop = True


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class _PlainOrpo(ORPOTrainer):
    """TRL's trainer, pairs in order, losses noted."""

    losses: list[float]

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)

    def training_step(self, *arguments: Any, **options: Any) -> torch.Tensor:
        """Keep the loss for the report."""
        loss = super().training_step(*arguments, **options)
        self.losses.append(float(loss))
        return loss


@dataclass(frozen=True)
class Task:
    """What a trainer measures."""

    shape: str
    cell: str
    steps: int
    most_seconds: float
    """Of a cell's steps."""


@dataclass(frozen=True)
class _Timed:
    clock: _Clock
    loss: float
    note: str


def _run_ours(policy: PeftModel, _: PreTrainedTokenizerBase, task: Task, __: int) -> _Timed:
    per_step = CELLS[task.cell].pairs_per_step
    config = build_config(
        {
            "lambda": LAMBDA,
            "learning_rate": 1e-5,
            "scheduler": "constant",
            "warmup_ratio": 0,
            "pairs_per_step": per_step,
            "max_steps": task.steps,
            "eval_every": task.steps + 1,
        }
    )
    pairs = pairs_of(task.cell, task.steps, SHAPES[task.shape].vocab_size)
    callback = NoCallback()
    engine = build_engine(policy, needs_of(config), pairs[:64])
    trainer = TrainerInFileOrder(engine, config, pairs, [], callback)
    clock, losses = _Clock(task.most_seconds), []
    trainer.add_callback(clock)
    trainer.add_callback(_Losses(lambda: losses.append(trainer.last_record["loss"])))
    trainer.train()
    return _Timed(clock, losses[0], f"{engine.describe} {trainer.memory.sentence()}")


class _Losses(TrainerCallback):
    def __init__(self, note: Callable[[], None]) -> None:
        self._note = note

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note the step's loss."""
        self._note()


def _run_trl(
    policy: PeftModel, tokenizer: PreTrainedTokenizerBase, task: Task, batch: int
) -> _Timed:
    pairs = pairs_of(task.cell, task.steps, SHAPES[task.shape].vocab_size)
    accumulated = CELLS[task.cell].pairs_per_step // batch
    arguments = trl_arguments(
        LAMBDA,
        output_dir=tempfile.mkdtemp(),
        learning_rate=1e-5,
        lr_scheduler_type="constant",
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulated,
        max_steps=task.steps,
        bf16=policy.get_base_model().dtype == torch.bfloat16,
        use_cpu=policy.device.type == "cpu",
    )
    trainer = trl_trainer(policy, tokenizer, arguments, _PlainOrpo)
    trainer.losses = []
    trainer.train_dataset = Dataset.from_list([trl_features(pair) for pair in pairs])
    clock = _Clock(task.most_seconds)
    trainer.add_callback(clock)
    trainer.train()
    return _Timed(clock, sum(trainer.losses[:accumulated]), f"batch {batch}")


def _measure(
    policy: PeftModel, tokenizer: PreTrainedTokenizerBase, task: Task, trainer: str
) -> Measured:
    """Return the numbers of a cell; TRL's at its fastest batch."""
    runs = {"ours": _run_ours, "trl": _run_trl}
    cell = CELLS[task.cell]
    best = _failed(task, trainer, "")
    for batch in cell.batches if trainer == "trl" else (0,):
        forget_peak()
        weights = resident_bytes()
        try:
            timed = runs[trainer](policy, tokenizer, task, batch)
        except (MemoryError, RuntimeError) as exc:
            if not hardware.is_out_of_memory(exc):
                raise
            if not best.seconds:
                best = _failed(task, trainer, f"out of memory at batch {batch}")
            policy.zero_grad(set_to_none=True)
            continue
        finally:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        seconds = statistics.median(timed.clock.seconds[WARM_UP:])
        if best.seconds and best.seconds <= seconds:
            continue
        tokens = _tokens(pairs_of(task.cell, task.steps, SHAPES[task.shape].vocab_size))
        best = Measured(
            task.shape,
            task.cell,
            trainer,
            cell.pairs_per_step,
            tokens / task.steps,
            len(timed.clock.seconds) - WARM_UP,
            seconds,
            peak_bytes() - weights,
            hardware.peak_reserved_bytes(),
            timed.loss,
            timed.note,
        )
    return best


def _failed(task: Task, trainer: str, error: str) -> Measured:
    per_step = CELLS[task.cell].pairs_per_step
    return Measured(task.shape, task.cell, trainer, per_step, 0.0, 0, 0.0, 0.0, 0.0, 0.0, "", error)


def _tokens(pairs: list[TokenizedPair]) -> int:
    return sum(len(pair.prompt) + len(pair.chosen) + len(pair.rejected) for pair in pairs)


def main() -> None:
    """Measure the cells one after another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trainer", choices=("ours", "trl"))
    parser.add_argument("shape", choices=tuple(SHAPES))
    parser.add_argument("--cells", required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True, help="of a cell, at most")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    hardware.use_all_cores()
    policy, tokenizer = random_policy(options.shape, hardware.choose_arithmetic())
    kept = {name: p.detach().clone() for name, p in policy.named_parameters() if p.requires_grad}
    for cell in options.cells.split(","):
        task = Task(options.shape, cell, options.steps + WARM_UP, options.seconds)
        measured = _measure(policy, tokenizer, task, options.trainer)
        with options.out.open("a", encoding="utf-8") as output:
            output.write(json.dumps(asdict(measured)) + "\n")
            output.flush()
            os.fsync(output.fileno())
        _restart(policy, kept)


@torch.no_grad()
def _restart(policy: PeftModel, kept: dict[str, torch.Tensor]) -> None:
    """Give the adapter its first values again, so that every cell starts alike."""
    restore_modules(policy)
    policy.zero_grad(set_to_none=True)
    for name, parameter in policy.named_parameters():
        if name in kept:
            parameter.copy_(kept[name])


if __name__ == "__main__":
    main()
