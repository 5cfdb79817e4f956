"""Finished runs with an adapter, without the training."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from orpo_qlora.config import TrainConfig
from orpo_qlora.data.pairs import PreferencePair, Split
from orpo_qlora.data.summary import DataSummary
from orpo_qlora.runs import store
from orpo_qlora.runs.state import RunState
from orpo_qlora.runs.store import Run

if TYPE_CHECKING:
    from peft import PeftModel


def write_adapter(model_folder: Path, folder: Path, seed: int = 0) -> None:
    """Write an adapter for a model folder which changes its answers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    policy = get_peft_model(model, lora)
    make_adapters_tell(policy)
    policy.save_pretrained(folder)


def with_two_adapters(model_folder: Path) -> PeftModel:
    """Return a base with two adapters that do something, “tuned” and “other”."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    policy = get_peft_model(model, lora, adapter_name="tuned")
    policy.add_adapter("other", lora)
    make_adapters_tell(policy)
    policy.set_adapter("tuned")
    return policy.eval()


def make_adapters_tell(policy: PeftModel) -> None:
    """Give the half of every adapter that begins as zero random values: answers then change."""
    import torch

    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)


def make_finished_run(
    model: Path, *, has_adapter: bool = True, seed: int = 0, name: str = ""
) -> Run:
    """Make a finished run on a model, with an adapter or without."""
    pair = PreferencePair(prompt="hello", chosen="hi", rejected="go away", row=1)
    paths = store.create_run(
        TrainConfig(model=str(model), name=name),
        Split(train=(pair,), held_out=()),
        DataSummary(source="toy.csv", sha256="0" * 64, rows_read=1, pairs=1),
    )
    if has_adapter:
        write_adapter(model, paths.adapter, seed)
    store.write_state(paths, RunState(status="finished", created_at=time.time()))
    return store.read_run(paths)
