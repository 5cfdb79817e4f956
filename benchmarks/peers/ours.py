"""This project's trainer, its own loop, one technique left out on demand. See `turns`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from benchmarks.peers.turns import Spec, Turns
from orpo_qlora.config import TrainConfig, build_config
from orpo_qlora.models.devices import hardware
from orpo_qlora.models.loading import load_base, recompute_activations
from orpo_qlora.orpo.engine import Engine, build_engine
from orpo_qlora.orpo.kernels.gated_mlp import restore_gated_mlps
from orpo_qlora.orpo.kernels.lora_linear import restore_lora_linears
from orpo_qlora.orpo.kernels.rms_norm import restore_rms_norms
from orpo_qlora.orpo.loss import needs_of
from orpo_qlora.orpo.reference import Measuring, Reference, as_reference
from orpo_qlora.orpo.rows.tokens import TokenizedPair
from orpo_qlora.orpo.step import Record
from orpo_qlora.orpo.trainer import OrpoTrainer

SHORT_BUDGET = 256


class NoCallback:
    """A callback that ignores everything."""

    def on_step(self, record: Record) -> None:
        """Ignore."""

    def on_phase(self, phase: str) -> None:
        """Ignore it."""

    def on_evaluation(self, record: Record) -> None:
        """Ignore."""

    def on_note(self, note: str) -> None:
        """Ignore."""

    def on_checkpoint(self, step: int, write: Callable[[Path], None]) -> None:
        """Ignore."""

    def should_stop(self) -> bool:
        """Never."""
        return False


class TrainerInFileOrder(OrpoTrainer):
    """Takes the pairs in file order, as the other trainers do."""

    def get_train_dataloader(self) -> DataLoader[list[TokenizedPair]]:
        """Return the steps in file order."""
        return DataLoader(
            self.train_dataset, batch_size=self.settings.pairs_per_step, collate_fn=list
        )


class _LiveReference(TrainerInFileOrder):
    """Measures the reference of a step's pairs in the step."""

    def measure_reference(self, *, can_stop: bool = False) -> bool:
        """Leave it to the steps."""
        return True

    def training_step(self, model: Any, inputs: list[TokenizedPair], *counts: Any) -> Any:
        """Measure the reference of the pairs, then do the step."""
        measuring = Measuring(self.engine, inputs)
        with as_reference(self.engine.policy):
            self.budget.spend(measuring.run)
        self.loss = replace(self.loss, reference=Reference(measuring.known))
        return super().training_step(model, inputs, *counts)


class _Pace(TrainerCallback):
    def __init__(self, turns: Turns, trainer: OrpoTrainer) -> None:
        self._turns, self._trainer = turns, trainer

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._turns.wait()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        record = self._trainer.last_record
        self._turns.done(
            **{name: record[name] for name in ("loss", "logps/chosen", "logps/rejected", "tokens")}
        )


def settings_of(spec: Spec) -> TrainConfig:
    """Return the settings every trainer of a comparison shares, in this project's words."""
    return build_config(
        {
            "model": spec.model,
            "method": spec.method,
            "lambda": spec.lambda_,
            "beta": spec.beta,
            "learning_rate": spec.learning_rate,
            "scheduler": "constant",
            "warmup_ratio": 0,
            "pairs_per_step": spec.pairs_per_step,
            "max_steps": 10_000,
            "activation_checkpointing": "off",
            "dequant_cache": "all" if spec.without == "unpacking" else "auto",
        }
        | ({"max_tokens_per_forward": SHORT_BUDGET} if spec.without == "long-forwards" else {})
    )


def ablated(engine: Engine, policy: PeftModel, technique: str) -> Engine:
    """Return the engine without one of its techniques.

    Raises:
        ValueError: there is no technique of that name.
    """
    if technique == "sharing":
        return replace(engine, layout="packed")
    if technique == "tiled-head":
        return replace(engine, head=None)
    if technique == "fused-linears":
        restore_gated_mlps(policy)  # made of such linears
        restore_lora_linears(policy)
        return engine
    if technique == "fused-blocks":
        restore_gated_mlps(policy)
        restore_rms_norms(policy)
        return engine
    if technique == "kept-activations":
        recompute_activations(policy.get_base_model())
        return engine
    if technique in ("", "unpacking", "long-forwards"):  # a setting, see `settings_of`
        return engine
    raise ValueError(f"no technique “{technique}”")


def read_pairs(spec: Spec) -> list[TokenizedPair]:
    """Return the pairs of a comparison as token ids, numbered from 1."""
    rows = json.loads(Path(spec.pairs).read_text(encoding="utf-8"))
    return [
        TokenizedPair(tuple(row["prompt"]), tuple(row["chosen"]), tuple(row["rejected"]), number)
        for number, row in enumerate(rows, 1)
    ]


def main() -> None:
    """Load, report ready, and step on request."""
    spec, turns = Spec.of_arguments(), Turns()
    config = settings_of(spec)
    hardware.use_all_cores()
    base = load_base(config.model)
    policy = PeftModel.from_pretrained(base.model, spec.adapter, is_trainable=True)
    turns.ready()
    pairs = read_pairs(spec)
    engine = build_engine(policy, needs_of(config), pairs[:64])
    kind = _LiveReference if spec.live_reference else TrainerInFileOrder
    trainer = kind(ablated(engine, policy, spec.without), config, pairs, [], NoCallback())
    trainer.add_callback(_Pace(turns, trainer))
    trainer.train()


if __name__ == "__main__":
    main()
