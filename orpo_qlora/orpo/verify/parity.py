"""One step by the engine, and how far another implementation's step is from it. Floor 2.

`orpo.verify`, the parity tests and the benchmarks use this module.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from peft import PeftModel
from torch import Tensor

from orpo_qlora.orpo.engine import Engine, build_engine
from orpo_qlora.orpo.loss import Loss, mismatch
from orpo_qlora.orpo.reference import Measuring, Reference, as_reference
from orpo_qlora.orpo.rows.packing import Needs
from orpo_qlora.orpo.rows.tokens import TokenizedPair
from orpo_qlora.orpo.step import Record, accumulate_step

GRADIENT = "gradient"
COMPARED = (
    *("loss", "nll_loss", "or_loss", "logps/chosen", "logps/rejected"),
    *("rewards/chosen", "rewards/rejected"),
)
"""Metrics that are compared where TRL's trainer of the method reports them."""
LEAST_NATS = 0.01
"""Smaller values are compared as if they were this large: log-softmax rounds absolutely."""
LEAST_REWARD = 10.0
"""Likewise for rewards, which may be differences of summed log-probs of hundreds of nats each."""
ADAPTER_STD = 0.01


@dataclass(frozen=True)
class Tolerance:
    """Largest differences that count as rounding."""

    value: float
    """Of loss and log-probs, relative."""
    gradient: float
    """Of each LoRA gradient, relative L2."""


TOLERANCES = {torch.float64: Tolerance(1e-9, 1e-7), torch.float32: Tolerance(1e-5, 1e-3)}
"""By the number type of the base; see docs/engine.md."""


@dataclass(frozen=True)
class Step:
    """What one optimizer step computes before the optimizer's update."""

    metrics: Record
    """By this project's names, see docs/run-folder.md."""
    gradients: Mapping[str, Tensor]
    """Of the trained parameters, by name, each in its parameter's shape."""


@dataclass(frozen=True)
class Difference:
    """One number by TRL and by the engine; for gradients, their L2 norms."""

    name: str
    trl: float
    engine: float
    difference: float
    """Relative."""
    tolerance: float

    @property
    def is_within(self) -> bool:
        """Whether the difference counts as rounding; NaN never does."""
        return self.difference <= self.tolerance


def engine_step(
    engine: Engine, pairs: Sequence[TokenizedPair], loss: Loss, tokens_per_forward: int
) -> Step:
    """Return one step of the engine, accumulated as a training does, dropout off."""
    engine.policy.eval()
    engine.policy.zero_grad()
    metrics = accumulate_step(engine, pairs, loss, tokens_per_forward, Tensor.backward)
    return Step(metrics, take_gradients(engine.policy))


def with_reference(loss: Loss, engine: Engine, pairs: Sequence[TokenizedPair]) -> Loss:
    """Return a loss that knows the reference's log-probs of these pairs, if it needs them."""
    if not loss.needs.reference:
        return loss
    if loss.needs.mismatched:
        loss = replace(loss, mismatched=mismatch(pairs, sys.maxsize))
    measuring = Measuring(engine, [*pairs, *loss.mismatched.values()])
    engine.policy.eval()
    with as_reference(engine.policy):
        measuring.run(sys.maxsize)
    return replace(loss, reference=Reference(measuring.known))


def compared_engine(policy: PeftModel, pairs: Sequence[TokenizedPair]) -> Engine:
    """Return an engine that measures all that TRL does; raises what `build_engine` does."""
    return build_engine(policy, Needs(prompt=True, rejected=True), pairs)


def compare_steps(trl: Step, engine: Step, tolerance: Tolerance) -> list[Difference]:
    """Return the differences of loss, its parts and log-probs, and of the worst LoRA gradient.

    Raises:
        KeyError: the two steps trained different parameters.
    """
    differences = [
        Difference(
            name,
            trl.metrics[name],
            engine.metrics[name],
            _relative(engine.metrics[name], trl.metrics[name], _least(name)),
            tolerance.value,
        )
        for name in COMPARED
        if name in trl.metrics
    ]
    if trl.gradients.keys() != engine.gradients.keys():
        raise KeyError(*sorted(trl.gradients.keys() ^ engine.gradients.keys()))
    by_name = {
        name: relative_l2(engine.gradients[name], wanted) for name, wanted in trl.gradients.items()
    }
    # Comparisons with NaN are false; as the first part of the key it is still found.
    worst = max(by_name, key=lambda name: (by_name[name] != by_name[name], by_name[name]))
    return [
        *differences,
        Difference(
            f"{GRADIENT} {_short(worst)}",
            float(trl.gradients[worst].norm()),
            float(engine.gradients[worst].norm()),
            by_name[worst],
            tolerance.gradient,
        ),
    ]


def _least(name: str) -> float:
    return LEAST_REWARD if name.startswith("rewards/") else LEAST_NATS


def _short(name: str) -> str:
    """Return a parameter's name without what PEFT puts around it."""
    return name.removeprefix("base_model.model.").removesuffix(".default.weight")


def _relative(value: float, wanted: float, least: float) -> float:
    return abs(value - wanted) / max(abs(wanted), least)


def relative_l2(value: Tensor, wanted: Tensor) -> float:
    """Return ‖value − wanted‖ / ‖wanted‖."""
    return float((value - wanted).norm() / wanted.norm().clamp(min=1e-300))


def take_gradients(policy: PeftModel) -> dict[str, Tensor]:
    """Return copies of a policy's gradients by parameter name, and clear them."""
    gradients = {
        name: parameter.grad.clone()
        for name, parameter in policy.named_parameters()
        if parameter.grad is not None
    }
    policy.zero_grad()
    return gradients


@torch.no_grad()
def fill_adapter(policy: PeftModel) -> None:
    """Give a fresh adapter's B matrices small random values, as after some training.

    PEFT starts them at 0, where the gradients of all A matrices are 0 too and would agree whatever
    computed them.
    """
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            parameter.normal_(std=ADAPTER_STD)
