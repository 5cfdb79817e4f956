"""A wrong fused kernel is found at the start of a run, also while the adapter is new."""

import pytest
import torch
from policies import make_policy, random_pairs

from orpo_qlora.orpo.adapter_check import random_adapter
from orpo_qlora.orpo.engine import build_engine, plain_sums
from orpo_qlora.orpo.kernels.lora_linear import LoraProduct
from orpo_qlora.orpo.rows.packing import Needs
from orpo_qlora.orpo.verify.parity import relative_l2, take_gradients

BOTH = Needs(prompt=True, rejected=True)
PAIRS = random_pairs(4, seed=5)


def new_adapter(policy):
    """Set B to 0, as PEFT does."""
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    return policy


def wrong_in_a(monkeypatch):
    """Forget the adapter in the gradient of x and scale that of A; both vanish where B is 0."""
    right = LoraProduct.narrow_gradient
    monkeypatch.setattr(
        LoraProduct, "narrow_gradient", lambda self, grad, b: 2 * right(self, grad, b)
    )


def wrong_forward(monkeypatch):
    right = LoraProduct.output

    def output(self, x, a, b):
        y, narrow = right(self, x, a, b)
        return y + 3 * (narrow @ b.t()), narrow

    monkeypatch.setattr(LoraProduct, "output", output)


@pytest.mark.parametrize("fault", [wrong_in_a, wrong_forward])
@pytest.mark.parametrize("name", ["llama-tied", "phi"])
def test_a_wrong_kernel_falls_back_to_the_libraries_own_code(monkeypatch, name, fault):
    fault(monkeypatch)
    policy = new_adapter(make_policy(name))
    state = torch.get_rng_state()
    built = build_engine(policy, BOTH, PAIRS)
    assert torch.equal(torch.get_rng_state(), state)
    assert built.falls_back
    assert not built.linears.products
    assert built.layout == "shared"
    assert "doctor" in built.describe
    wanted = torch.stack([plain_sums(policy, pair) for pair in PAIRS])
    wanted.mean().backward()
    expected = take_gradients(policy)
    sums, _ = built.measure(PAIRS)
    assert torch.allclose(sums.sums, wanted, rtol=1e-10)
    sums.sums.mean().backward()
    found = take_gradients(policy)
    assert all(relative_l2(found[n], expected[n]) < 1e-6 for n in expected if expected[n].any())


def test_right_kernels_stay_and_a_new_adapter_stays_new():
    policy = new_adapter(make_policy("llama-tied"))
    built = build_engine(policy, BOTH, PAIRS)
    assert not built.falls_back
    assert built.linears.products
    assert not any(p.any() for name, p in policy.named_parameters() if "lora_B" in name)


def test_a_trained_adapter_keeps_its_values():
    policy = make_policy("llama-tied")
    before = [p.clone() for p in policy.parameters()]
    with random_adapter(policy):
        assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))
