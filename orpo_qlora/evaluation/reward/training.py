"""A reward model of a run's training pairs, by TRL's RewardTrainer. Floor 5; torch, TRL."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback
from trl import RewardConfig, RewardTrainer

from orpo_qlora import storage
from orpo_qlora.data.pairs import PreferencePair
from orpo_qlora.errors import InputError
from orpo_qlora.evaluation.reward.model import RewardModel, load_scalar_base, with_adapter
from orpo_qlora.runs import store
from orpo_qlora.runs.store import Run

FOLDER = "reward-models"
NAME = "the reward model trained on your pairs"
RECIPE = 1
"""Number of the recipe below; a model of another one is trained again."""
RANK, ALPHA, LEARNING_RATE, PAIRS_PER_STEP = 16, 32, 1e-3, 4
FEWEST_STEPS, MOST_STEPS = 16, 100
FEWEST_PAIRS = 8
LONGEST = 2048


def training_steps(pairs: int) -> int:
    """Return the steps of a training: one epoch within bounds."""
    return min(MOST_STEPS, max(FEWEST_STEPS, math.ceil(pairs / PAIRS_PER_STEP)))


def trained_reward_model(run: Run, on_step: Callable[[int, int], object]) -> RewardModel:
    """Return the reward model of a run's training pairs, trained unless it is kept.

    Args:
        run: its base, chat template and training pairs are used.
        on_step: called with the number of steps done and in all.

    Raises:
        InputError: the run has too few training pairs.
        ModelError: the base cannot be loaded with a scalar head.
        DiskFull: nothing is kept.
    """
    pairs = [pair for pair in store.training_pairs(run.paths) if not pair.single]
    if len(pairs) < FEWEST_PAIRS:
        raise InputError(
            f"Run “{run.title}” has {len(pairs)} training pairs, too few for a reward model.",
            hint="Name a reward model (--reward-model), or train on more pairs.",
        )
    kept = _kept_folder(run)
    if not kept.is_dir():
        _train(run, pairs, kept, on_step)
    return with_adapter(load_scalar_base(run.trained_config), kept, NAME)


def _kept_folder(run: Run) -> Path:
    config = run.trained_config
    about = {
        "pairs": storage.sha256_of(run.paths.train),
        "recipe": RECIPE,
        **{
            name: getattr(config, name)
            for name in ("model", "revision", "quantization", "compute_dtype", "chat_template")
        },
    }
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
    folder = storage.home() / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / key


def _train(
    run: Run,
    pairs: Sequence[PreferencePair],
    kept: Path,
    on_step: Callable[[int, int], object],
) -> None:
    """Train, and keep the adapter whole or not at all."""
    base = load_scalar_base(run.trained_config)
    steps = training_steps(len(pairs))
    is_cuda = base.model.device.type == "cuda"
    with storage.new_folder(kept) as draft:
        trainer = RewardTrainer(
            model=base.model,
            args=RewardConfig(
                output_dir=str(draft),
                per_device_train_batch_size=PAIRS_PER_STEP,
                max_steps=steps,
                learning_rate=LEARNING_RATE,
                lr_scheduler_type="linear",
                seed=0,
                bf16=is_cuda and "bfloat16" in str(base.model.dtype),
                use_cpu=not is_cuda,
                max_length=LONGEST,
                gradient_checkpointing=False,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list([_record(pair) for pair in pairs]),
            processing_class=base.tokenizer,
            peft_config=LoraConfig(
                r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="SEQ_CLS"
            ),
            callbacks=[_Steps(on_step)],
        )
        trainer.train()
        trainer.model.save_pretrained(str(draft))


def _record(pair: PreferencePair) -> dict[str, object]:
    chosen, rejected = pair.responses
    tools = {"tools": pair.tool_use.tools} if pair.tool_use.tools else {}
    return {
        "prompt": [turn.record() for turn in pair.conversation],
        "chosen": [chosen.record()],
        "rejected": [rejected.record()],
        **tools,
    }


class _Steps(TrainerCallback):
    """Reports each optimizer step."""

    def __init__(self, on_step: Callable[[int, int], object]) -> None:
        self._on_step = on_step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401
        """Called by the trainer after each step."""
        self._on_step(state.global_step, state.max_steps)
