"""Gated feed-forwards and norms in one function each against the models' own code."""

import pytest
import torch
from policies import CONFIGS, make_policy
from torch import nn

from orpo_qlora.orpo.kernels.gated_mlp import (
    fuse_gated_mlps,
    restore_gated_mlps,
    suspended_gated_mlps,
)
from orpo_qlora.orpo.kernels.lora_linear import fuse_lora_linears
from orpo_qlora.orpo.kernels.rms_norm import fuse_rms_norms, restore_rms_norms
from orpo_qlora.orpo.verify.parity import relative_l2, take_gradients

IDS = torch.tensor([[5, 9, 31, 7, 12], [8, 8, 40, 3, 90]])
LAYERS = 2
GATED = {"llama-tied", "llama-untied", "qwen2", "qwen3", "gemma2", "gemma3", "mistral-window"}
NORMS = {"qwen3": 4 * LAYERS + 1, "gemma2": 4 * LAYERS + 1, "gemma3": 6 * LAYERS + 1}


@pytest.fixture(autouse=True)
def double_all_the_way(monkeypatch):
    """Norms cast to float32 inside; here that is float64."""
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def loss_and_gradients(policy):
    logits = policy(input_ids=IDS).logits
    loss = torch.log_softmax(logits, -1)[..., ::3].square().mean()
    loss.backward()
    return loss.item(), take_gradients(policy)


def assert_same(measured, wanted):
    loss, found = measured
    expected, sought = wanted
    assert loss == pytest.approx(expected, rel=1e-12)
    assert found.keys() == sought.keys()
    assert all(relative_l2(found[n], sought[n]) < 1e-11 for n in sought)


@pytest.mark.parametrize("name", CONFIGS)
def test_fused_modules_give_the_models_loss_and_gradients(name):
    policy = make_policy(name)
    wanted = loss_and_gradients(policy)
    linears = fuse_lora_linears(policy)
    assert fuse_gated_mlps(policy, linears) == (LAYERS if name in GATED else 0)
    assert_same(loss_and_gradients(policy), wanted)
    norms = NORMS.get(name, 2 * LAYERS + 1) if name in GATED else 0
    assert fuse_rms_norms(policy) == norms
    assert_same(loss_and_gradients(policy), wanted)


def test_an_input_that_needs_no_gradient_gets_none():
    policy = make_policy("llama-tied")
    mlp = policy.get_base_model().model.layers[0].mlp
    fuse_gated_mlps(policy, fuse_lora_linears(policy))
    x = torch.randn(3, 32)
    mlp(x).sum().backward()
    assert x.grad is None
    assert mlp.gate_proj.lora_A["default"].weight.grad.abs().sum() > 0


def test_a_feed_forward_that_computes_something_else_is_left_alone():
    policy = make_policy("llama-tied")
    odd = policy.get_base_model().model.layers[0].mlp
    usual = odd.forward
    odd.__class__ = type("Odd", (type(odd),), {"forward": lambda self, x: 2 * usual(x)})
    assert fuse_gated_mlps(policy, fuse_lora_linears(policy)) == LAYERS - 1
    assert "forward" not in odd.__dict__


def test_a_disabled_adapter_leaves_the_base():
    policy = make_policy("llama-tied")
    with policy.disable_adapter():
        expected = policy(input_ids=IDS).logits
    fuse_gated_mlps(policy, fuse_lora_linears(policy))
    with policy.disable_adapter():
        assert torch.equal(policy(input_ids=IDS).logits, expected)
    assert not torch.allclose(policy(input_ids=IDS).logits, expected)


def test_adapters_mixed_in_a_batch_are_mixed_by_peft():
    policy = make_policy("llama-tied").eval()
    expected = policy(input_ids=IDS, adapter_names=["default", "__base__"]).logits
    fuse_gated_mlps(policy, fuse_lora_linears(policy))
    found = policy(input_ids=IDS, adapter_names=["default", "__base__"]).logits
    assert torch.allclose(found, expected, rtol=1e-12)


def test_a_trained_norm_is_left_alone():
    norm = make_policy("llama-tied").get_base_model().model.norm
    norm.weight.requires_grad_(True)
    assert fuse_rms_norms(nn.Sequential(norm)) == 0


def test_restoring_gives_the_models_own_modules_back():
    policy = make_policy("llama-tied")
    fuse_gated_mlps(policy, fuse_lora_linears(policy))
    fuse_rms_norms(policy)
    restore_gated_mlps(policy)
    restore_rms_norms(policy)
    layer = policy.get_base_model().model.layers[0]
    assert "forward" not in layer.mlp.__dict__
    assert "forward" not in layer.input_layernorm.__dict__


def test_suspended_feed_forwards_are_the_models_own_until_the_end_of_the_block():
    policy = make_policy("llama-tied").eval()
    layers = policy.get_base_model().model.layers
    fuse_gated_mlps(policy, fuse_lora_linears(policy))
    fused = [layer.mlp.forward for layer in layers]
    with policy.disable_adapter():
        expected = policy(input_ids=IDS).logits
    with suspended_gated_mlps(policy):
        assert all("forward" not in vars(layer.mlp) for layer in layers)
        bare = policy(input_ids=IDS, adapter_names=["__base__"] * 2).logits
        assert torch.allclose(bare, expected, rtol=1e-12)
    assert [layer.mlp.forward for layer in layers] == fused
