"""TRL's ORPOTrainer, its own loop, on the same token ids, weights and adapter. See `turns`."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch.utils.data import SequentialSampler
from transformers import TrainerCallback
from trl.experimental.orpo import ORPOTrainer

from benchmarks.peers.ours import read_pairs
from benchmarks.peers.turns import Spec, Turns
from orpo_qlora.models.devices import hardware
from orpo_qlora.models.loading import load_base
from orpo_qlora.orpo.verify.trl_steps import trl_arguments, trl_features, trl_trainer


class _Paced(ORPOTrainer):
    """Notes each micro-batch's loss and takes the pairs as they come."""

    losses: list[float]

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)

    def training_step(self, *arguments: Any, **options: Any) -> torch.Tensor:
        """Keep the loss for the report."""
        loss = super().training_step(*arguments, **options)
        self.losses.append(float(loss))
        return loss


class _Pace(TrainerCallback):
    def __init__(self, turns: Turns, trainer: _Paced) -> None:
        self._turns, self._trainer = turns, trainer

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._trainer.losses = []
        self._trainer._stored_metrics.clear()
        self._turns.wait()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        metrics = self._trainer._stored_metrics["train"]
        means = {
            name: sum(metrics[name]) / len(metrics[name])
            for name in ("logps/chosen", "logps/rejected")
        }
        # Scaled by the loop for accumulation: the micro-batches of a step add up to its loss.
        self._turns.done(loss=sum(self._trainer.losses), **means)


def main() -> None:
    """Load, report ready, and step on request."""
    spec, turns = Spec.of_arguments(), Turns()
    hardware.use_all_cores()
    base = load_base(spec.model)
    policy = PeftModel.from_pretrained(base.model, spec.adapter, is_trainable=True)
    turns.ready()
    arguments = trl_arguments(
        spec.lambda_,
        output_dir=tempfile.mkdtemp(),
        learning_rate=spec.learning_rate,
        lr_scheduler_type="constant",
        per_device_train_batch_size=spec.batch,
        gradient_accumulation_steps=spec.pairs_per_step // spec.batch,
        max_steps=10_000,
        bf16=base.arithmetic.dtype == torch.bfloat16,
        use_cpu=base.arithmetic.device == "cpu",
    )
    trainer = trl_trainer(policy, base.tokenizer, arguments, _Paced)
    trainer.train_dataset = Dataset.from_list([trl_features(pair) for pair in read_pairs(spec)])
    trainer.add_callback(_Pace(turns, trainer))
    trainer.train()


if __name__ == "__main__":
    main()
