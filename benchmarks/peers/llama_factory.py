"""LLaMA-Factory's ORPO, its own loop, in an environment of its own. See `turns`.

It tokenises by itself, and its NLL is the chosen response's alone, a mean over sequences: only
speed and memory compare. Nothing of this project is imported here.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from llamafactory.train.tuner import run_exp
from transformers import TrainerCallback

from benchmarks.peers.turns import Spec, Turns


class _Pace(TrainerCallback):
    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._turns.ready()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._turns.wait()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._turns.done()


def main() -> None:
    """Load, report ready, and step on request."""
    spec, turns = Spec.of_arguments(), Turns()
    torch.set_num_threads(torch.get_num_threads())
    folder = Path(tempfile.mkdtemp())
    shutil.copy(spec.texts, folder / "pairs.json")
    columns = {name: name for name in ("prompt", "chosen", "rejected")}
    listing = {"pairs": {"file_name": "pairs.json", "ranking": True, "columns": columns}}
    (folder / "dataset_info.json").write_text(json.dumps(listing), encoding="utf-8")
    run_exp(
        {
            "stage": "dpo",
            "pref_loss": "orpo",
            "pref_beta": spec.lambda_,
            "do_train": True,
            "model_name_or_path": spec.model,
            "adapter_name_or_path": spec.adapter,
            "finetuning_type": "lora",
            "quantization_bit": 4,
            "quantization_method": "bnb",
            "template": "chatml",
            "dataset": "pairs",
            "dataset_dir": str(folder),
            "cutoff_len": 2048,
            "disable_shuffling": True,
            "per_device_train_batch_size": spec.batch,
            "gradient_accumulation_steps": spec.pairs_per_step // spec.batch,
            "learning_rate": spec.learning_rate,
            "lr_scheduler_type": "constant",
            "num_train_epochs": 1,
            "disable_gradient_checkpointing": True,
            "use_cpu": not torch.cuda.is_available(),
            "optim": "adamw_torch",
            "output_dir": str(folder / "out"),
            "save_strategy": "no",
            "report_to": "none",
            "logging_steps": 10,
        },
        callbacks=[_Pace(turns)],
    )


if __name__ == "__main__":
    main()
