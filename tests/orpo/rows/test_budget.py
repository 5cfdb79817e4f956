"""Running out of memory changes nothing but the cut into forwards."""

import pytest
import torch
from notebook import Notebook, adapter
from peft.tuners.lora import LoraLayer
from policies import make_policy, random_pairs

from orpo_qlora.config import TrainConfig
from orpo_qlora.errors import OutOfMemory
from orpo_qlora.models.devices.memory import MemoryChoice
from orpo_qlora.orpo import engine as engine_module
from orpo_qlora.orpo import step
from orpo_qlora.orpo.engine import Engine, build_engine
from orpo_qlora.orpo.rows.budget import Budget
from orpo_qlora.orpo.rows.packing import Needs
from orpo_qlora.orpo.trainer import OrpoTrainer

PAIRS = random_pairs(12, seed=8)


def train(pairs=PAIRS, policy=None, **settings):
    policy = policy or make_policy("llama-untied", torch.float32)
    config = TrainConfig(**({"pairs_per_step": 4, "learning_rate": 1e-3} | settings))
    built = build_engine(policy, Needs(prompt=True, rejected=True), pairs)
    notebook = Notebook()
    trainer = OrpoTrainer(built, config, pairs, pairs[:3], notebook)
    trainer.train()
    return notebook, adapter(policy)


def break_memory(monkeypatch, calls, error=torch.OutOfMemoryError, when="before"):
    """Let the given calls of `Engine.measure` fail, before or after the real work."""
    asked = iter(range(10_000))  # 0 and 1 are the start-up checks of layout and gradient
    measure = Engine.measure

    def failing(self, pairs):
        number = next(asked)
        if number in calls and when == "before":
            raise error("CUDA out of memory (injected)")
        result = measure(self, pairs)
        if number in calls:
            raise error("CUDA out of memory (injected)")
        return result

    monkeypatch.setattr(engine_module.Engine, "measure", failing)


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def without_clocks(records):
    clocks = ("seconds", "peak_memory_bytes")
    return [{k: v for k, v in record.items() if not k.endswith(clocks)} for record in records]


# Long pairs: with 32 tokens or with 16, each has a forward of its own.
LONG_PAIRS = [p for p in random_pairs(60, seed=8, longest=30) if len(p.prompt) > 17][:8]
ALONE = {"max_tokens_per_forward": 32, "eval_every": 1}


@pytest.fixture(scope="module")
def undisturbed():
    return train(LONG_PAIRS, **ALONE)


# The first two calls are start-up checks; then 3 held-out pairs, 4 pairs a step, 3 held-out ones …
@pytest.mark.parametrize(
    ("call", "when"),
    [
        (2, "before"),
        (4, "after"),
        (5, "before"),
        (5, "after"),
        (7, "after"),
        (8, "after"),
        (10, "before"),
        (12, "after"),
        (15, "after"),
    ],
)
def test_a_step_that_ran_out_is_redone_bit_for_bit(monkeypatch, undisturbed, call, when):
    wanted, wanted_adapter = undisturbed
    break_memory(monkeypatch, {call}, when=when)
    notebook, measured = train(LONG_PAIRS, **ALONE)
    assert same(measured, wanted_adapter)
    assert len(wanted.steps) == 2
    assert without_clocks(notebook.steps) == without_clocks(wanted.steps)
    assert without_clocks(notebook.evaluations) == without_clocks(wanted.evaluations)
    assert ["16 tokens a forward" in note for note in notebook.notes] == [True]


def test_after_running_out_the_run_is_that_of_half_the_budget(monkeypatch):
    _, wanted = train(max_tokens_per_forward=64)
    _, whole = train(max_tokens_per_forward=128)
    break_memory(monkeypatch, {2})  # the first evaluation, before any step
    notebook, measured = train(max_tokens_per_forward=128)
    assert same(measured, wanted)
    assert not same(measured, whole)  # other sums, so other last bits
    assert all(torch.allclose(measured[name], whole[name], rtol=1e-4, atol=1e-6) for name in whole)
    assert len(notebook.notes) == 1


def test_running_out_again_and_again_ends_with_recomputed_activations(monkeypatch):
    _, wanted = train(max_tokens_per_forward=16)
    break_memory(monkeypatch, {2, 3, 4})
    notebook, measured = train(max_tokens_per_forward=64)
    assert [note.split(":")[0] for note in notebook.notes] == ["Memory ran out"] * 3
    assert "recomputed" in notebook.notes[-1]
    assert all(torch.allclose(measured[n], wanted[n], rtol=1e-4, atol=1e-6) for n in wanted)


def test_when_nothing_helps_the_error_says_so(monkeypatch):
    break_memory(monkeypatch, set(range(2, 1000)))
    with pytest.raises(OutOfMemory, match="single pair") as caught:
        train(max_tokens_per_forward=16)
    assert "smaller model" in caught.value.hint


def test_dropout_draws_the_same_numbers_in_the_second_try(monkeypatch):
    pairs = LONG_PAIRS[:4]

    def with_dropout():
        policy = make_policy("llama-untied", torch.float32)
        for layer in policy.modules():
            if isinstance(layer, LoraLayer):
                layer.lora_dropout["default"] = torch.nn.Dropout(0.5)
        torch.manual_seed(3)
        return train(pairs, policy=policy, max_tokens_per_forward=32)[1]

    wanted = with_dropout()
    break_memory(monkeypatch, {4}, when="after")
    assert same(with_dropout(), wanted)


def test_a_lowered_budget_limits_that_of_a_checkpoint():
    budget = Budget(None, MemoryChoice(1000, False, False, 0), print)
    budget.restore(2000)
    assert budget.tokens == 2000
    budget.lower(2)
    assert budget.tokens == 500
    budget.restore(900)
    assert budget.tokens == 500
    budget.restore(300)
    assert budget.tokens == 300


def test_another_error_is_not_swallowed(monkeypatch):
    break_memory(monkeypatch, {3}, error=lambda text: RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        train()


def test_every_step_has_the_peak_of_its_own_and_what_torch_reserved(monkeypatch):
    peaks = []
    monkeypatch.setattr(step, "forget_peak_memory", lambda: peaks.append(0))
    monkeypatch.setattr(step, "peak_memory_bytes", lambda: 100 + len(peaks))
    monkeypatch.setattr(step, "peak_reserved_bytes", lambda: 200 + len(peaks))
    notebook, _ = train(PAIRS[:4], max_steps=2)
    first, second = notebook.steps
    assert second["peak_memory_bytes"] > first["peak_memory_bytes"]
    for record in notebook.steps:
        assert record["reserved_memory_bytes"] == record["peak_memory_bytes"] + 100
