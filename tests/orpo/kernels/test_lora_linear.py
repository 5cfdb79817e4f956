"""The fused LoRA product against PEFT's own layers, and when it steps aside."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from policies import make_policy, randomize_adapter
from tiny import make_tiny_model
from transformers import AutoModelForCausalLM

from orpo_qlora.config import TrainConfig
from orpo_qlora.models.loading import attach_new_adapter, load_base
from orpo_qlora.orpo.kernels.lora_linear import fuse_lora_linears, restore_lora_linears
from orpo_qlora.orpo.verify.parity import relative_l2, take_gradients

IDS = torch.tensor([[5, 9, 31, 7, 12], [8, 8, 40, 3, 90]])


def loss_and_gradients(policy):
    logits = policy(input_ids=IDS).logits
    loss = torch.log_softmax(logits, -1)[..., ::3].square().mean()
    loss.backward()
    return loss.item(), take_gradients(policy)


def assert_same(measured, wanted, tolerance):
    loss, found = measured
    expected, sought = wanted
    assert loss == pytest.approx(expected, rel=tolerance)
    assert found.keys() == sought.keys()
    assert all(relative_l2(found[n], sought[n]) < tolerance for n in sought)


@pytest.mark.parametrize("name", ["llama-tied", "qwen2", "phi", "gpt-neox"])
def test_fused_layers_give_pefts_loss_and_gradients(name):
    policy = make_policy(name)  # qwen2, phi and gpt-neox have biases
    wanted = loss_and_gradients(policy)
    fused = fuse_lora_linears(policy)
    assert fused.left_to_peft == 0
    assert len(fused.products) >= 8
    assert_same(loss_and_gradients(policy), wanted, 1e-12)


@pytest.fixture
def nf4_policy(tmp_path):
    base = load_base(str(make_tiny_model(tmp_path / "tiny")))
    policy = attach_new_adapter(base, TrainConfig(lora_r=4))
    randomize_adapter(policy)
    return policy


def test_fused_nf4_layers_give_pefts_loss_and_gradients(nf4_policy):
    wanted = loss_and_gradients(nf4_policy)
    fused = fuse_lora_linears(nf4_policy)
    assert len(fused.products) == 14
    assert_same(loss_and_gradients(nf4_policy), wanted, 1e-5)


def test_keeping_weights_unpacked_changes_no_bit(nf4_policy):
    fused = fuse_lora_linears(nf4_policy)
    loss, wanted = loss_and_gradients(nf4_policy)
    fused.keep_unpacked()
    again, measured = loss_and_gradients(nf4_policy)
    assert again == loss
    assert all(torch.equal(measured[name], wanted[name]) for name in wanted)


def test_each_layer_keeps_its_own_rank_and_scale():
    policy = make_policy(
        "llama-tied", rank_pattern={"q_proj": 5, "down_proj": 1}, alpha_pattern={"k_proj": 17}
    )
    wanted = loss_and_gradients(policy)
    fuse_lora_linears(policy)
    assert_same(loss_and_gradients(policy), wanted, 1e-12)


def test_recomputed_activations_give_the_same_gradients():
    policy = make_policy("llama-tied")
    fuse_lora_linears(policy)
    wanted = loss_and_gradients(policy)
    policy.train()
    policy.get_base_model().activation_checkpointing_enable(
        activation_checkpointing_kwargs={"use_reentrant": False}
    )
    assert_same(loss_and_gradients(policy), wanted, 1e-12)


def test_a_disabled_adapter_leaves_the_base():
    policy = make_policy("llama-tied")
    expected = make_policy("llama-tied").unload()(input_ids=IDS).logits
    fuse_lora_linears(policy)
    with policy.disable_adapter():
        assert torch.equal(policy(input_ids=IDS).logits, expected)
    assert not torch.allclose(policy(input_ids=IDS).logits, expected)


@pytest.mark.parametrize("option", [{"lora_dropout": 0.5}, {"use_dora": True}])
def test_unusual_adapters_are_left_to_peft(option):
    base = make_policy("llama-tied").unload()
    lora = LoraConfig(r=3, target_modules="all-linear", task_type="CAUSAL_LM", **option)
    policy = get_peft_model(base, lora)
    fused = fuse_lora_linears(policy)
    assert not fused.products
    assert fused.left_to_peft == 14


def test_another_adapter_made_active_later_is_the_one_used():
    policy = make_policy("llama-tied")
    fuse_lora_linears(policy)
    first = policy(input_ids=IDS).logits
    policy.add_adapter("second", LoraConfig(r=2, target_modules="all-linear"))
    policy.set_adapter("second")  # its B is zero: the base's answer
    with policy.disable_adapter():
        base = policy(input_ids=IDS).logits
    assert torch.allclose(policy(input_ids=IDS).logits, base)
    policy.set_adapter("default")
    assert torch.equal(policy(input_ids=IDS).logits, first)


def test_restoring_gives_pefts_layers_back():
    policy = make_policy("llama-tied")
    fuse_lora_linears(policy)
    restore_lora_linears(policy)
    layer = policy.get_base_model().model.layers[0].self_attn.q_proj
    assert layer.forward.__func__ is type(layer).forward


def test_half_precision_output_keeps_a_float32_adapters_gradient():
    base = AutoModelForCausalLM.from_config(make_policy("llama-tied").unload().config)
    lora = LoraConfig(r=3, target_modules="all-linear", task_type="CAUSAL_LM")
    policy = get_peft_model(base.to(torch.bfloat16), lora)
    for parameter in policy.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    randomize_adapter(policy)
    fuse_lora_linears(policy)
    with torch.autocast("cpu", torch.bfloat16):
        policy(input_ids=IDS).logits.float().square().mean().backward()
    found = take_gradients(policy)
    assert {gradient.dtype for gradient in found.values()} == {torch.float32}
    assert all(gradient.isfinite().all() for gradient in found.values())
