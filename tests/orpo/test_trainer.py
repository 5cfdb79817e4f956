import math
import time
from types import SimpleNamespace

import pytest
import torch
from notebook import Notebook, adapter
from peft import LoraConfig, get_peft_model
from policies import CONFIGS, VOCABULARY, make_policy, random_pairs
from transformers import AutoModelForCausalLM

from orpo_qlora.config import TrainConfig
from orpo_qlora.errors import NonFiniteLoss
from orpo_qlora.orpo import resume
from orpo_qlora.orpo import trainer as trainer_module
from orpo_qlora.orpo.engine import build_engine
from orpo_qlora.orpo.processes.ranks import Ranks
from orpo_qlora.orpo.rows.batches import total_steps
from orpo_qlora.orpo.rows.packing import Needs
from orpo_qlora.orpo.rows.tokens import TokenizedPair
from orpo_qlora.orpo.trainer import OrpoTrainer


def train(pairs, held_out=(), *, policy=None, stop_after=None, **settings):
    policy = policy or make_policy("llama-untied", torch.float32)
    config = TrainConfig(**({"pairs_per_step": 4, "learning_rate": 1e-3} | settings))
    built = build_engine(policy, Needs(prompt=True, rejected=True), pairs)
    notebook = Notebook(stop_after)
    trainer = OrpoTrainer(built, config, pairs, held_out, notebook)
    trainer.train()
    return notebook, policy


@pytest.mark.parametrize(
    ("pairs", "settings", "steps"),
    [
        (10, {}, 3),
        (10, {"epochs": 2.0}, 6),
        (10, {"epochs": 0.5}, 2),
        (10, {"max_steps": 7}, 7),
        (1, {"epochs": 0.1}, 1),
    ],
)
def test_steps_follow_from_pairs_and_epochs(pairs, settings, steps):
    config = TrainConfig(pairs_per_step=4, **settings)
    assert total_steps(config, pairs) == steps
    notebook, _ = train(random_pairs(pairs), **settings)
    assert [record["step"] for record in notebook.steps] == list(range(1, steps + 1))


def test_every_pair_is_seen_once_an_epoch():
    notebook, _ = train(random_pairs(10), epochs=3)
    assert [record["pairs"] for record in notebook.steps] == [4, 4, 2] * 3
    assert notebook.steps[-1]["epoch"] == pytest.approx(3)


def test_token_budget_changes_neither_metrics_nor_adapter():
    runs = [
        train(random_pairs(12), epochs=2, max_tokens_per_forward=budget) for budget in (4096, 16)
    ]
    (first, one), (second, other) = runs
    losses = [[record["loss"] for record in book.steps] for book in (first, second)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    left, right = adapter(one), adapter(other)
    assert all(torch.allclose(left[name], right[name], atol=1e-4) for name in left)


def test_same_seed_same_run_and_another_seed_another():
    losses = [
        [record["loss"] for record in train(random_pairs(12), seed=seed)[0].steps]
        for seed in (1, 1, 2)
    ]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_held_out_pairs_are_measured_during_and_after_and_the_base_with_the_first():
    notebook, _ = train(random_pairs(16), random_pairs(5, seed=8), eval_every=2)
    assert [record["step"] for record in notebook.evaluations] == [0, 2, 4]
    assert all(record["eval/pairs"] == 5 for record in notebook.evaluations)
    steps = [record["step"] for record in notebook.everything]
    assert steps == [1, 2, 0, 2, 3, 4, 4]


def test_no_held_out_pairs_no_evaluation():
    assert train(random_pairs(4))[0].evaluations == []


def test_stop_ends_after_the_current_step_without_another_evaluation():
    notebook, _ = train(random_pairs(16), random_pairs(5, seed=8), eval_every=1, stop_after=2)
    assert len(notebook.steps) == 2
    assert [record["step"] for record in notebook.evaluations] == [0, 1]


def test_the_time_of_a_step_contains_the_sum_of_gradients(monkeypatch):
    class Slow(Ranks):
        clock = 0.0

        def sum_gradients(self):
            self.clock += 1000.0

    slow, pairs, notebook = Slow(), random_pairs(4), Notebook()
    clocks = SimpleNamespace(perf_counter=lambda: slow.clock, monotonic=time.monotonic)
    monkeypatch.setattr(trainer_module, "time", clocks)
    built = build_engine(
        make_policy("llama-untied", torch.float32), Needs(prompt=True, rejected=True), pairs
    )
    OrpoTrainer(built, TrainConfig(pairs_per_step=4), pairs, (), notebook, slow).train()
    assert [1000 < record["seconds"] < 1100 for record in notebook.steps] == [True]


UNEQUAL = {"eval/seconds", "eval/peak_memory_bytes"}


@pytest.mark.parametrize("name", ["llama-untied", "llama-tied"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_base_measured_after_training_is_the_untrained_policy_exactly(name, dtype, dropout):
    """Adapter disabled and adapter still zero are the same numbers, bit for bit."""
    held_out = random_pairs(6, seed=8)

    def make(steps):
        policy = fresh_policy(name, dtype, dropout)
        built = build_engine(policy, Needs(prompt=True, rejected=True), held_out)
        config = TrainConfig(pairs_per_step=4, learning_rate=1e-2, max_steps=steps)
        return OrpoTrainer(built, config, random_pairs(12), held_out, Notebook())

    untrained = make(1)
    untrained.has_base_evaluation = True
    untrained.evaluate()
    trained = make(5)
    trained.train()
    (expected,), (base, *later) = (t.run_callback.evaluations for t in (untrained, trained))
    assert base["step"] == 0
    assert {n: v for n, v in base.items() if n not in UNEQUAL} == {
        n: v for n, v in expected.items() if n not in UNEQUAL
    }
    assert all(record["eval/loss"] != base["eval/loss"] for record in later)


def test_training_is_bit_for_bit_the_same_wherever_the_base_is_measured():
    ends = []
    for eval_every in (1, 3, 100):
        torch.manual_seed(3)
        policy = fresh_policy("llama-untied", torch.float32, 0.3)
        torch.manual_seed(4)
        pairs = random_pairs(12)
        notebook, _ = train(pairs, random_pairs(5), policy=policy, eval_every=eval_every)
        ends.append(([record["loss"] for record in notebook.steps], adapter(policy)))
    (losses, weights), *others = ends
    for other_losses, other_weights in others:
        assert other_losses == losses
        assert all(torch.equal(value, weights[name]) for name, value in other_weights.items())


def fresh_policy(name, dtype, dropout):
    """A policy as a run begins with it: half of every adapter is zero."""
    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_config(CONFIGS[name]).to(dtype)
    base.requires_grad_(False)
    lora = LoraConfig(r=3, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(base, lora)


@pytest.mark.parametrize(
    ("settings", "stop_after", "expected"),
    [
        ({"max_steps": 8}, None, [2, 4, 6, 8]),
        ({"max_steps": 7, "checkpoint_every": 3}, None, [3, 6, 7]),
        ({"max_steps": 8}, 3, [2, 3]),
        ({"max_steps": 8}, 4, [2, 4]),
    ],
)
def test_checkpoints_are_due_regularly_at_the_end_and_at_a_stop(settings, stop_after, expected):
    notebook, _ = train(random_pairs(8), stop_after=stop_after, **settings)
    assert notebook.checkpoints == expected


def test_a_slow_run_gets_a_checkpoint_every_ten_minutes(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(resume.time, "monotonic", lambda: now[0])
    due = resume.Savepoints(every=0, steps=1000)
    now[0] += resume.CHECKPOINT_SECONDS + 1
    assert due.is_due(3, is_last=False)
    due.saved(3)
    assert not due.is_due(4, is_last=False)
    asked_for = resume.Savepoints(every=500, steps=1000)
    now[0] += resume.CHECKPOINT_SECONDS + 1
    assert not asked_for.is_due(4, is_last=False)


def test_a_run_of_one_step_moves_the_adapter():
    policy = make_policy("llama-untied", torch.float32)
    before = adapter(policy)
    train(random_pairs(4), policy=policy, max_steps=1)
    assert any(not torch.equal(value, before[name]) for name, value in adapter(policy).items())


def test_training_learns_the_preference():
    pairs = random_pairs(6, seed=21)
    notebook, _ = train(pairs, pairs, max_steps=60, learning_rate=1e-2, lambda_=1.0)
    first, last = notebook.evaluations[0], notebook.evaluations[-1]
    assert first["eval/rewards/accuracies"] < 0.9
    assert last["eval/rewards/accuracies"] == 1.0
    assert last["eval/log_odds_ratio"] > first["eval/log_odds_ratio"] + 1
    assert last["eval/logps/chosen"] > first["eval/logps/chosen"]


def test_a_loss_that_is_not_a_number_stops_before_the_step_and_names_the_rows():
    poison = VOCABULARY - 1
    policy = make_policy("llama-untied", torch.float32)
    with torch.no_grad():
        policy.get_base_model().get_input_embeddings().weight[poison] = math.nan
    clean = [p for p in random_pairs(20) if poison not in p.prompt + p.chosen + p.rejected][:8]
    clean = [TokenizedPair(p.prompt, p.chosen, p.rejected, i) for i, p in enumerate(clean, 1)]
    bad = TokenizedPair((poison, 5), (6, 7), (8, 9), row=99)
    before = adapter(policy)
    built = build_engine(policy, Needs(prompt=True, rejected=True), clean)
    config = TrainConfig(pairs_per_step=9, learning_rate=1e-3)
    trainer = OrpoTrainer(built, config, [*clean, bad], (), Notebook())
    with pytest.raises(NonFiniteLoss, match="step 1") as caught:
        trainer.train()
    assert "99" in caught.value.where
    assert all(torch.equal(value, before[name]) for name, value in adapter(policy).items())


def test_each_epoch_has_an_order_of_its_own(monkeypatch):
    seen = []
    original = OrpoTrainer.training_step

    def noting(self, model, inputs, num_items_in_batch=None):
        seen.append([pair.row for pair in inputs])
        return original(self, model, inputs, num_items_in_batch)

    monkeypatch.setattr(OrpoTrainer, "training_step", noting)
    train(random_pairs(8), epochs=2)
    first, second = [*seen[0], *seen[1]], [*seen[2], *seen[3]]
    assert sorted(first) == sorted(second) == list(range(1, 9))
    assert first != second
