"""The engine on a tiny random model against PEFT's and transformers' own code. Floor 2."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor

from orpo_qlora.config import TrainConfig
from orpo_qlora.models.devices.hardware import Arithmetic
from orpo_qlora.orpo import resume
from orpo_qlora.orpo.doctor.tiny import Lengths, load_policy, random_pairs
from orpo_qlora.orpo.engine import Engine, build_engine, plain_sums, restore_modules
from orpo_qlora.orpo.loss import Loss, loss_for, needs_of
from orpo_qlora.orpo.objectives.base import PairSums
from orpo_qlora.orpo.rows.tokens import TokenizedPair
from orpo_qlora.orpo.step import Record
from orpo_qlora.orpo.trainer import OrpoTrainer
from orpo_qlora.orpo.verify.parity import (
    Difference,
    Step,
    Tolerance,
    compare_steps,
    compared_engine,
    engine_step,
    relative_l2,
    take_gradients,
)

TOLERANCES = {
    torch.float32: Tolerance(1e-4, 3e-3),
    torch.bfloat16: Tolerance(2e-2, 0.15),
    torch.float16: Tolerance(5e-3, 0.05),
}
"""Largest differences from the plain path that count as rounding; a wrong kernel gives tenths."""
NF4_ERROR = 0.12
"""Largest relative L2 error of normal values in NF4, which is about 0.09."""
STEPS = 4
RESUME_AFTER = 2
RESUMED_ERROR = 1e-3
"""Largest relative L2 difference of a resumed run's adapter change on a GPU, where some kernels
add up in another order each time. On a CPU it is 0."""
TIMED_STEPS = 2
LONG_PAIRS = Lengths(prompt=96, response=96, least_share=0.5)


def check_config(**settings: object) -> TrainConfig:
    """Return the settings of the checks."""
    few = {"pairs_per_step": 4, "lora_r": 8, "lora_dropout": 0.0, "learning_rate": 1e-3}
    return TrainConfig.model_validate({"model": "tiny", "max_steps": STEPS} | few | settings)


def check_bitsandbytes(arithmetic: Arithmetic) -> float:
    """Return the relative error of 4-bit weights on the device; see `NF4_ERROR`.

    Raises:
        ArithmeticError: values or products are wrong.
    """
    source = torch.Generator().manual_seed(0)
    values = torch.randn(128, 256, generator=source).to(arithmetic.device, arithmetic.dtype)
    packed, state = quantize_4bit(values, quant_type="nf4", compress_statistics=True)
    error = relative_l2(dequantize_4bit(packed, state).float(), values.float())
    if not error <= NF4_ERROR:
        raise ArithmeticError(f"4-bit weights are off by {error:.2g}; expected below {NF4_ERROR}.")
    linear = Linear4bit(256, 128, bias=False, compute_dtype=arithmetic.dtype, quant_type="nf4")
    linear.weight.data.copy_(values)
    linear = linear.to(arithmetic.device)
    linear.support_avx512bf16_for_cpu = False
    x = torch.randn(5, 256, generator=source).to(arithmetic.device, arithmetic.dtype)
    wide = dequantize_4bit(linear.weight.data, linear.weight.quant_state).to(x.dtype)
    off = relative_l2(linear(x).detach().float(), (x @ wide.t()).float())
    if not off <= TOLERANCES[arithmetic.dtype].value:
        raise ArithmeticError(f"A 4-bit product is off by {off:.2g}.")
    return error


@dataclass(frozen=True)
class Comparison:
    """One step by the plain path and by the engine."""

    engine: Engine
    differences: list[Difference]

    @property
    def is_equal(self) -> bool:
        """Whether all differences count as rounding."""
        return all(one.is_within for one in self.differences)


def compare_with_plain(folder: Path, arithmetic: Arithmetic) -> Comparison:
    """Return one step in which loss, log-probs and LoRA gradients are computed twice.

    Args:
        folder: of the tiny model.
        arithmetic: device and number type.

    Raises:
        UnsupportedModel: no layout agrees with the plain forward pass.
    """
    config = check_config()
    policy, loss = load_policy(folder, arithmetic, config), loss_for(config)
    pairs = random_pairs(config.pairs_per_step)
    plain = _plain_step(policy, pairs, loss)
    engine = compared_engine(policy, pairs)
    # Two forwards at least, so that the cut into micro-steps is compared too.
    longest = engine.longest_row(pairs)
    found = engine_step(engine, pairs, loss, longest)
    return Comparison(engine, compare_steps(plain, found, TOLERANCES[arithmetic.dtype]))


def _plain_step(policy: PeftModel, pairs: Sequence[TokenizedPair], loss: Loss) -> Step:
    """Return one step from whole logits of single sequences, PEFT's layers and autograd."""
    restore_modules(policy)
    policy.eval()
    policy.zero_grad()
    sums = torch.stack([plain_sums(policy, pair) for pair in pairs])
    counts = [[len(pair.prompt) - 1, len(pair.chosen), len(pair.rejected)] for pair in pairs]
    measured = PairSums(sums, torch.tensor(counts, device=sums.device))
    terms = loss.terms(pairs, measured, loss.totals(pairs))
    terms.loss.backward()
    metrics: Record = {"loss": float(terms.loss.detach())}
    metrics |= {name: float(value) for name, value in terms.parts.items()}
    metrics |= {name: float(values.mean()) for name, values in terms.pairs.items()}
    return Step(metrics, take_gradients(policy))


def fused_modules(engine: Engine) -> dict[str, int]:
    """Return how many modules of each kind run a fused kernel, and how many PEFT's own code."""
    fused = [module for module in engine.policy.modules() if "forward" in module.__dict__]
    rest = [module for module in fused if not isinstance(module, LoraLayer)]
    gated = sum(hasattr(module, "gate_proj") for module in rest)
    return {
        "lora_linear": len(engine.linears.products),
        "left_to_peft": engine.linears.left_to_peft,
        "gated_mlp": gated,
        "rms_norm": len(rest) - gated,
    }


class _Recorder:
    """A `RunCallback` that keeps the steps and saves one checkpoint."""

    def __init__(self, save: Callable[[int, Callable[[Path], None]], None]) -> None:
        self.steps: list[Record] = []
        self._save = save

    def on_step(self, record: Record) -> None:
        self.steps.append(record)

    def on_phase(self, phase: str) -> None:
        """Ignore phases."""

    def on_evaluation(self, record: Record) -> None:
        """Ignore evaluations."""

    def on_note(self, note: str) -> None:
        """Ignore notes."""

    def should_stop(self) -> bool:
        return False

    def on_checkpoint(self, step: int, write: Callable[[Path], None]) -> None:
        self._save(step, write)


def check_resume(model: Path, arithmetic: Arithmetic, work: Path) -> float:
    """Train, then again from a checkpoint; return how far the adapters end apart.

    Args:
        model: folder of the tiny model.
        arithmetic: device and number type.
        work: folder for the checkpoint.

    Returns:
        ‖difference‖ / ‖change by the steps after the checkpoint‖ over the whole adapter.
    """
    folder = work / "checkpoint"
    folder.mkdir()

    def save(step: int, write: Callable[[Path], None]) -> None:
        if step == RESUME_AFTER:
            write(folder)

    straight = _train(model, arithmetic, _Recorder(save))
    saved = load_policy(model, arithmetic, check_config())
    resume.restore_weights(folder, saved)
    start = _adapter(saved)
    resumed = _train(model, arithmetic, _Recorder(lambda step, write: None), folder)
    return float((resumed - straight).norm() / (straight - start).norm())


def _train(
    model: Path, arithmetic: Arithmetic, recorder: _Recorder, resume_from: Path | None = None
) -> Tensor:
    """Return the adapter after all steps, in one vector."""
    config = check_config(checkpoint_every=RESUME_AFTER)
    pairs = random_pairs(2 * config.pairs_per_step)
    policy = load_policy(model, arithmetic, config)
    engine = build_engine(policy, needs_of(config), pairs)
    trainer = OrpoTrainer(engine, config, pairs, [], recorder)
    trainer.resume_from = resume_from
    trainer.train()
    return _adapter(policy)


def _adapter(policy: PeftModel) -> Tensor:
    return torch.cat(
        [p.detach().cpu().flatten().clone() for p in policy.parameters() if p.requires_grad]
    )


def measure_throughput(model: Path, arithmetic: Arithmetic) -> dict[str, Any]:
    """Return pairs, tokens and seconds of the fastest optimizer step after the first.

    `engine` is its layout and attention in words.
    """
    config = check_config(pairs_per_step=8, max_steps=1 + TIMED_STEPS)
    pairs = random_pairs(config.pairs_per_step, LONG_PAIRS)
    policy = load_policy(model, arithmetic, config)
    recorder = _Recorder(lambda step, write: None)
    trainer = OrpoTrainer(
        build_engine(policy, needs_of(config), pairs), config, pairs, [], recorder
    )
    started = time.perf_counter()
    trainer.train()
    fastest = min(recorder.steps[1:], key=lambda record: record["seconds"])
    return {
        "pairs": fastest["pairs"],
        "tokens": fastest["tokens"],
        "seconds": fastest["seconds"],
        "tokens_per_second": fastest["tokens"] / fastest["seconds"],
        "peak_memory_bytes": fastest["peak_memory_bytes"],
        "reserved_memory_bytes": fastest.get("reserved_memory_bytes", 0.0),
        "seconds_of_all_steps": time.perf_counter() - started,
        "engine": trainer.engine.describe,
    }
