"""The drift from the base equals a plain loop over whole logits of single sequences."""

import dataclasses

import pytest
import torch
from notebook import Notebook
from policies import CONFIGS, make_policy, random_pairs

from orpo_qlora.config import TrainConfig
from orpo_qlora.orpo import drift
from orpo_qlora.orpo.drift import mean_kl
from orpo_qlora.orpo.engine import build_engine, restore_modules
from orpo_qlora.orpo.rows.packing import LAYOUTS, Needs
from orpo_qlora.orpo.trainer import OrpoTrainer

BOTH = Needs(prompt=True, rejected=True)


def naive_kl(policy, pairs):
    """Sum over t and v of p·(log p − log q), one pair and one token at a time."""
    restore_modules(policy)
    policy.eval()
    total, tokens = 0.0, 0
    for pair in pairs:
        ids = torch.tensor([pair.prompt + pair.chosen])
        with torch.no_grad():
            tuned = policy(input_ids=ids).logits[0].double()
            with policy.disable_adapter():
                base = policy(input_ids=ids).logits[0].double()
        for at in range(len(pair.prompt) - 1, ids.shape[1] - 1):
            p, q = torch.softmax(tuned[at], -1), torch.softmax(base[at], -1)
            total += float((p * (p / q).log()).sum())
            tokens += 1
    assert tokens == sum(len(pair.chosen) for pair in pairs)
    return total / tokens


@pytest.mark.parametrize("name", CONFIGS)
def test_the_drift_is_that_of_a_plain_loop_on_every_architecture(name, whole_float64):
    policy, pairs = make_policy(name), random_pairs(5, seed=3)
    measured = mean_kl(build_engine(policy, BOTH, pairs), pairs, 60)
    assert measured > 1e-3
    assert measured == pytest.approx(naive_kl(policy, pairs), rel=1e-10)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_order_budget_and_tiles_do_not_change_it(layout, whole_float64, monkeypatch):
    policy, pairs = make_policy("llama-tied"), random_pairs(6, seed=4)
    built = build_engine(policy, BOTH, pairs)
    whole = mean_kl(built, pairs, 10_000)
    monkeypatch.setattr(drift, "TILE_BYTES", 1)  # a row at a time
    model = policy.get_base_model()
    if layout == "padded":
        model.set_attn_implementation("sdpa")
    again = mean_kl(dataclasses.replace(built, layout=layout), pairs[::-1], 20)
    assert again == pytest.approx(whole, rel=1e-10)


def test_an_adapted_output_layer_counts(whole_float64):
    pairs = random_pairs(4, seed=5)
    policy = make_policy("llama-untied", target_modules=["q_proj", "lm_head"])
    built = build_engine(policy, BOTH, pairs)
    assert built.head is None
    assert mean_kl(built, pairs, 50) == pytest.approx(naive_kl(policy, pairs), rel=1e-10)


def test_an_untrained_adapter_has_not_moved(whole_float64):
    policy, pairs = make_policy("qwen3"), random_pairs(4)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.zeros_(parameter)
    assert mean_kl(build_engine(policy, BOTH, pairs), pairs, 50) == 0.0
    assert all(p.requires_grad for n, p in policy.named_parameters() if "lora_" in n)


@pytest.mark.parametrize(("settings", "forwards"), [({}, 2), ({"lambda": 0, "track": False}, 1)])
def test_a_training_records_it_with_its_last_evaluation(settings, forwards):
    pairs = random_pairs(8)
    policy = make_policy("llama-untied", torch.float32)
    needs = Needs(prompt=True, rejected=settings.get("track", True))
    config = TrainConfig(pairs_per_step=4, eval_every=1, **{"lambda": settings.get("lambda", 0.1)})
    notebook = Notebook()
    trainer = OrpoTrainer(build_engine(policy, needs, pairs), config, pairs, pairs[:3], notebook)
    trainer.train()
    assert [record["step"] for record in notebook.evaluations] == [0, 1, 2]
    assert ["eval/kl_base" in record for record in notebook.evaluations] == [False, False, True]
    assert notebook.evaluations[-1]["eval/kl_base"] == pytest.approx(
        naive_kl(policy, pairs[:3]), rel=1e-4
    )
    assert [record["forwards"] for record in notebook.steps] == [4 * forwards] * 2
    assert [record["eval/forwards"] for record in notebook.evaluations] == [3 * forwards] * 3
