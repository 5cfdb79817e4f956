"""Memory that runs out in the optimizer's first step changes nothing but a note."""

import pytest
import torch
from bitsandbytes.optim import AdamW8bit
from notebook import Notebook, adapter
from policies import make_policy, random_pairs
from torch import nn

from orpo_qlora.config import TrainConfig
from orpo_qlora.errors import OutOfMemory
from orpo_qlora.orpo.engine import build_engine
from orpo_qlora.orpo.optimizer_memory import NOTE, repeat_when_memory_runs_out
from orpo_qlora.orpo.rows.packing import Needs
from orpo_qlora.orpo.trainer import OrpoTrainer

OPTIMIZERS = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, fused=True),
    "adamw_8bit": lambda parameters: AdamW8bit(parameters, lr=0.1),
}


def parameters():
    source = torch.Generator().manual_seed(0)
    made = [nn.Parameter(torch.randn(64, 80, generator=source)) for _ in range(4)]
    for parameter in made:
        parameter.grad = torch.randn(64, 80, generator=source)
    return made


class Memory:
    """Lets the given allocations of moments fail with a driver's text."""

    def __init__(self, monkeypatch, failing):
        self.failing, self.count = failing, 0
        real = torch.zeros_like

        def allocate(*arguments, **options):
            self.count += 1
            if self.count in self.failing:
                raise torch.AcceleratorError("CUDA driver error: out of memory", 2)
            return real(*arguments, **options)

        monkeypatch.setattr(torch, "zeros_like", allocate)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("failing", [1, 4, 8])
def test_each_parameter_is_updated_once(monkeypatch, name, failing):
    wanted = parameters()
    plain = OPTIMIZERS[name](wanted)
    plain.step()
    plain.step()
    found, notes = parameters(), []
    optimizer = OPTIMIZERS[name](found)
    repeat_when_memory_runs_out(optimizer, notes.append)
    Memory(monkeypatch, {failing})
    optimizer.step()
    optimizer.step()
    assert notes == [NOTE]
    assert all(parameter.grad is not None for parameter in found)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_when_the_second_try_fails_too_the_way_out_is_named(monkeypatch):
    optimizer = OPTIMIZERS["adamw"](parameters())
    repeat_when_memory_runs_out(optimizer, print)
    Memory(monkeypatch, set(range(1, 99)))
    with pytest.raises(OutOfMemory, match="optimizer's state") as caught:
        optimizer.step()
    assert "paged_adamw_8bit" in caught.value.hint


def test_another_error_is_not_repeated(monkeypatch):
    optimizer = OPTIMIZERS["adamw"](parameters())
    optimizer.param_groups[0]["params"][0].grad = torch.ones(64, 80).to_sparse()
    repeat_when_memory_runs_out(optimizer, print)
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()


def train():
    pairs = random_pairs(8, seed=8)
    policy = make_policy("llama-untied", torch.float32)
    config = TrainConfig(pairs_per_step=4, learning_rate=1e-3, scheduler="cosine")
    built = build_engine(policy, Needs(prompt=True, rejected=True), pairs)
    notebook = Notebook()
    OrpoTrainer(built, config, pairs, [], notebook).train()
    return adapter(policy), notebook.notes


def test_a_training_goes_on_with_the_same_result(monkeypatch):
    wanted, _ = train()
    Memory(monkeypatch, {3})
    found, notes = train()
    assert notes == [NOTE]
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
