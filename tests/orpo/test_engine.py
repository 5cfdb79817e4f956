"""The engine gives the numbers of one plain sequence at a time, whatever the layout."""

import dataclasses

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from policies import CONFIGS, make_policy, random_pairs

from orpo_qlora.config import TrainConfig
from orpo_qlora.orpo import engine
from orpo_qlora.orpo.engine import build_engine
from orpo_qlora.orpo.kernels import attention
from orpo_qlora.orpo.loss import loss_for
from orpo_qlora.orpo.objectives.base import PairSums
from orpo_qlora.orpo.rows.packing import Needs, cut_into_micro_steps, lay_out
from orpo_qlora.orpo.step import measure_pairs
from orpo_qlora.orpo.verify.parity import relative_l2, take_gradients

BOTH = Needs(prompt=True, rejected=True)
LOSS = loss_for(TrainConfig(lambda_=0.4))


def plain_loss(policy, pairs, loss_of=LOSS):
    """One sequence at a time, whole logits, no engine."""
    sums = torch.stack([engine.plain_sums(policy, pair) for pair in pairs])
    counts = torch.tensor(
        [[len(p.prompt) - 1, len(p.chosen), len(p.rejected)] for p in pairs], dtype=sums.dtype
    )
    return loss_of.terms(pairs, PairSums(sums, counts), loss_of.totals(pairs)).loss


def engine_loss(built, pairs, budget, loss_of=LOSS):
    """Accumulate the step's gradient through the engine; return the loss."""
    loss = 0.0
    for group in built.micro_steps(pairs, budget):
        sums, _ = built.measure(group)
        terms = loss_of.terms(group, sums, loss_of.totals(pairs))
        terms.loss.backward()
        loss += terms.loss.item()
    return loss


@pytest.mark.parametrize("name", CONFIGS)
def test_shared_layout_equals_plain_sequences_on_every_architecture(name, whole_float64):
    policy = make_policy(name)
    pairs = random_pairs(5, seed=3)
    built = build_engine(policy, BOTH, pairs)
    assert built.layout == "shared"
    loss = engine_loss(built, pairs, budget=60)
    measured = take_gradients(policy)
    twin = make_policy(name)  # through PEFT's own layers
    expected = plain_loss(twin, pairs)
    expected.backward()
    wanted = take_gradients(twin)
    assert loss == pytest.approx(expected.item(), rel=1e-10)
    assert measured.keys() == wanted.keys()
    assert all(relative_l2(measured[n], wanted[n]) < 1e-9 for n in wanted)


@pytest.mark.parametrize("layout", ["shared", "packed", "padded"])
def test_every_rung_gives_the_same_step(layout):
    policy = make_policy("llama-tied")
    pairs = random_pairs(6, seed=4)
    built = dataclasses.replace(build_engine(policy, BOTH, pairs), layout=layout)
    loss = engine_loss(built, pairs, budget=80)
    twin = make_policy("llama-tied")
    assert loss == pytest.approx(plain_loss(twin, pairs).item(), rel=1e-10)


@given(seed=st.integers(0, 10_000), count=st.integers(1, 7), budget=st.integers(1, 200))
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_order_and_token_budget_do_not_change_the_step(whole_float64, seed, count, budget):
    policy = POLICY
    pairs = random_pairs(count, seed=seed)
    built = build_engine(policy, BOTH, pairs)
    loss = engine_loss(built, pairs, budget=10_000)
    wanted = take_gradients(policy)
    again = engine_loss(built, pairs[::-1], budget=budget)
    measured = take_gradients(policy)
    assert again == pytest.approx(loss, rel=1e-10)
    assert all(relative_l2(measured[n], wanted[n]) < 1e-9 for n in wanted)


POLICY = make_policy("llama-tied")


def test_float32_step_is_invariant_within_rounding():
    policy = make_policy("qwen3", torch.float32)
    pairs = random_pairs(6, seed=9)
    built = build_engine(policy, BOTH, pairs)
    loss = engine_loss(built, pairs, budget=10_000)
    wanted = take_gradients(policy)
    again = engine_loss(built, pairs[::-1], budget=40)
    measured = take_gradients(policy)
    assert again == pytest.approx(loss, rel=1e-5)
    assert all(relative_l2(measured[n], wanted[n]) < 1e-3 for n in wanted)


def test_lambda_zero_sends_no_rejected_token_through_the_model():
    pairs = random_pairs(4)
    layout = lay_out(pairs, "shared", Needs(prompt=True, rejected=False))
    assert layout.tokens == sum(len(p.prompt) + len(p.chosen) - 1 for p in pairs)
    policy = make_policy("llama-tied")
    sft = loss_for(TrainConfig(lambda_=0.0))
    built = build_engine(policy, Needs(prompt=True, rejected=False), pairs)
    expected = plain_loss(make_policy("llama-tied"), pairs, sft).item()
    assert engine_loss(built, pairs, 50, sft) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("layout", ["shared", "packed", "padded"])
def test_micro_steps_hold_every_pair_once_and_stay_within_the_budget(layout):
    pairs = random_pairs(40, seed=5)
    groups = cut_into_micro_steps(pairs, layout, BOTH, budget=90)
    assert sorted(p.row for group in groups for p in group) == [p.row for p in pairs]
    for group in groups:
        tokens = lay_out(group, layout, BOTH).tokens
        assert tokens <= 90 or len(group) == 1
    assert len(groups) < 40


def test_a_wrong_layout_is_caught_and_the_next_one_taken(monkeypatch):
    """A model that ignores the segments would let the rejected response see the chosen one."""

    def ignores_segments(module, query, key, value, mask, **kwargs):
        kwargs.pop("segments", None)
        kwargs.pop("attention_kernel", None)
        return attention.plain_attention(module, query, key, value, None, **kwargs)

    policy = make_policy("llama-tied")
    monkeypatch.setattr(attention, "segment_attention", ignores_segments)
    built = build_engine(policy, BOTH, random_pairs(3, seed=6))
    assert built.layout == "padded"
    monkeypatch.undo()
    attention.register()


def test_a_model_whose_layers_look_across_answers_is_padded(whole_float64):
    policy, pairs = make_policy("lfm2"), random_pairs(5, seed=3)
    built = build_engine(policy, BOTH, pairs)
    assert built.layout == "padded"
    assert "padded" in built.describe
    loss = engine_loss(built, pairs, budget=60)
    expected = plain_loss(make_policy("lfm2"), pairs).item()
    assert loss == pytest.approx(expected, rel=1e-10)
    for layout in ("shared", "packed"):  # what the check has refused is indeed wrong
        wrong = engine_loss(dataclasses.replace(built, layout=layout), pairs, budget=60)
        assert wrong != pytest.approx(expected, rel=1e-4)


def test_a_trained_head_keeps_its_logits_and_gets_its_gradient(whole_float64):
    policy, twin = make_policy("llama-untied"), make_policy("llama-untied")
    for model in (policy, twin):
        model.get_base_model().get_output_embeddings().weight.requires_grad_(True)
    pairs = random_pairs(3, seed=7)
    built = build_engine(policy, BOTH, pairs)
    assert built.head is None
    loss = engine_loss(built, pairs, 50)
    measured = take_gradients(policy)
    expected = plain_loss(twin, pairs)
    expected.backward()
    wanted = take_gradients(twin)
    assert loss == pytest.approx(expected.item(), rel=1e-10)
    assert any("lm_head" in name for name in wanted)
    assert all(relative_l2(measured[n], wanted[n]) < 1e-9 for n in wanted)


def test_measuring_leaves_the_policy_trainable_and_in_its_mode():
    policy = make_policy("llama-tied")
    policy.train()
    pairs = random_pairs(4)
    built = build_engine(policy, BOTH, pairs)
    first = measure_pairs(built, pairs, LOSS, 60)
    assert policy.training
    engine_loss(built, pairs, 60)
    assert take_gradients(policy)
    assert measure_pairs(built, pairs, LOSS, 25)["loss"] == pytest.approx(first["loss"])
