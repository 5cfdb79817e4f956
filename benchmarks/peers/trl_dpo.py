"""TRL's DPOTrainer, its own loop, on the same token ids, weights and adapter. See `turns`.

Its reference is the base, measured in the step, as by default. The adapter stays in float32: on a
4-bit base TRL casts it to bfloat16, which is another training.
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch.utils.data import SequentialSampler
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer

from benchmarks.peers.ours import read_pairs
from benchmarks.peers.turns import Spec, Turns
from orpo_qlora.models.devices import hardware
from orpo_qlora.models.loading import load_base


class _Paced(DPOTrainer):
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
        self._turns.wait()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        # Scaled by the loop for accumulation: the micro-batches of a step add up to its loss.
        self._turns.done(loss=sum(self._trainer.losses))


def main() -> None:
    """Load, report ready, and step on request."""
    spec, turns = Spec.of_arguments(), Turns()
    hardware.use_all_cores()
    base = load_base(spec.model)
    policy = PeftModel.from_pretrained(base.model, spec.adapter, is_trainable=True)
    kept = {name: p.data for name, p in policy.named_parameters() if p.requires_grad}
    turns.ready()
    arguments = DPOConfig(
        output_dir=tempfile.mkdtemp(),
        beta=spec.beta,
        max_length=None,
        learning_rate=spec.learning_rate,
        lr_scheduler_type="constant",
        per_device_train_batch_size=spec.batch,
        gradient_accumulation_steps=spec.pairs_per_step // spec.batch,
        max_steps=10_000,
        bf16=base.arithmetic.dtype == torch.bfloat16,
        use_cpu=base.arithmetic.device == "cpu",
        activation_checkpointing=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    unused = Dataset.from_dict({"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]})
    trainer = _Paced(
        model=policy, args=arguments, train_dataset=unused, processing_class=base.tokenizer
    )
    policy.delete_adapter("ref")  # a copy of the adapter; the reference here is the base
    for name, parameter in policy.named_parameters():
        if name in kept:
            parameter.data = kept[name]
    trainer.train_dataset = Dataset.from_list(
        [
            {
                "prompt_ids": list(pair.prompt),
                "chosen_ids": list(pair.chosen),
                "rejected_ids": list(pair.rejected),
            }
            for pair in read_pairs(spec)
        ]
    )
    trainer.add_callback(_Pace(turns, trainer))
    trainer.train()


if __name__ == "__main__":
    main()
