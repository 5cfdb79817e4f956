"""On a 4-bit base every method equals a loop of single sequences through PEFT's own modules.

TRL's trainers cast the adapter on a 4-bit base to bfloat16, so the loop is the measure there. It
has no packing, no shared prompt, no fused layers and no tiled head; each loss is written out.
Measured on a tiny Llama in NF4, computed in float32: losses differ by at most 6e-7, gradients by at
most 2e-6, both relative.
"""

from dataclasses import replace

import pytest
import torch
from policies import random_pairs, randomize_adapter
from torch.nn import functional as F

from orpo_qlora.config import TrainConfig
from orpo_qlora.methods import METHODS, beta_of
from orpo_qlora.models.loading import attach_new_adapter, load_base
from orpo_qlora.orpo.engine import build_engine, restore_modules
from orpo_qlora.orpo.loss import loss_for, mismatch, needs_of
from orpo_qlora.orpo.objectives.log_odds import log_odds_ratio
from orpo_qlora.orpo.reference import digest_of
from orpo_qlora.orpo.verify.parity import (
    TOLERANCES,
    engine_step,
    relative_l2,
    take_gradients,
    with_reference,
)

LONG = 10_000


@pytest.fixture(scope="module")
def quantised(tiny_model):
    config = TrainConfig(model=str(tiny_model))
    base = load_base(str(tiny_model), quantization="nf4", compute_dtype="float32")
    policy = attach_new_adapter(base, config)
    randomize_adapter(policy, size=0.05)
    policy.eval()
    return policy


def logps(policy, prompt, response):
    """Return the log-probs of a response's tokens, and those of the prompt's."""
    ids = torch.tensor([[*prompt, *response]])
    found = torch.log_softmax(policy(input_ids=ids, use_cache=False).logits[0, :-1], -1)
    found = found.gather(1, ids[0, 1:, None])[:, 0]
    return found[len(prompt) - 1 :], found[: len(prompt) - 1]


def gain(policy, prompt, response):
    tuned = logps(policy, prompt, response)[0].sum()
    with torch.no_grad(), policy.disable_adapter():
        reference = logps(policy, prompt, response)[0].sum()
    return tuned - reference


def nll(policy, pairs, *, with_prompt):
    parts = [logps(policy, pair.prompt, pair.chosen) for pair in pairs]
    return -torch.cat([p for part in parts for p in part[: 1 + with_prompt]]).mean()


def of_pairs(policy, pairs, loss):
    """Return the mean of a loss of the log-probs of each pair's responses."""
    each = [
        loss(logps(policy, p.prompt, p.chosen)[0], logps(policy, p.prompt, p.rejected)[0])
        for p in pairs
    ]
    return torch.stack(each).mean()


def of_gains(policy, pairs, loss):
    each = [
        loss(gain(policy, p.prompt, p.chosen), gain(policy, p.prompt, p.rejected), p) for p in pairs
    ]
    return torch.stack(each).mean()


def kto(policy, pairs, beta):
    others = mismatch(pairs, LONG)
    partners = [others[digest_of(pair)] for pair in pairs]
    with torch.no_grad():
        drifts = [
            gain(policy, partner.prompt, response)
            for partner in partners
            for response in (partner.chosen, partner.rejected)
            if response
        ]
        k = torch.stack(drifts).mean().clamp(min=0)
    losses = [
        1 - torch.sigmoid(sign * beta * (gain(policy, pair.prompt, response) - k))
        for pair in pairs
        for sign, response in ((1, pair.chosen), (-1, pair.rejected))
        if response
    ]
    return torch.stack(losses).mean()


def naive(policy, pairs, config):
    """Return the loss of a method at its default settings, sequence by sequence."""
    beta = beta_of(config)
    match config.method:
        case "orpo":
            preference = of_pairs(
                policy, pairs, lambda c, r: -F.logsigmoid(log_odds_ratio(c.mean(), r.mean()))
            )
            return nll(policy, pairs, with_prompt=True) + config.lambda_ * preference
        case "sft":
            return nll(policy, pairs, with_prompt=True)
        case "simpo":
            return of_pairs(
                policy,
                pairs,
                lambda c, r: -F.logsigmoid(beta * (c.mean() - r.mean()) - config.gamma),
            )
        case "cpo":
            preference = of_pairs(
                policy, pairs, lambda c, r: -F.logsigmoid(beta * (c.sum() - r.sum()))
            )
            return preference + config.cpo_alpha * nll(policy, pairs, with_prompt=False)
        case "dpo":
            return of_gains(policy, pairs, lambda c, r, _: -F.logsigmoid(beta * (c - r)))
        case "ipo":
            return of_gains(
                policy,
                pairs,
                lambda c, r, p: (c / len(p.chosen) - r / len(p.rejected) - 1 / (2 * beta)).square(),
            )
        case _:
            return kto(policy, pairs, beta)


@pytest.mark.parametrize("name", [*METHODS, "kto on single responses"])
def test_a_step_on_nf4_equals_a_plain_loop(quantised, name):
    policy, pairs = quantised, random_pairs(4, seed=5)
    config = TrainConfig(method=name.partition(" ")[0])
    if " " in name:
        pairs = [replace(p, **{("chosen", "rejected")[p.row % 2]: ()}) for p in pairs]
    engine = build_engine(policy, needs_of(config), pairs)
    loss = with_reference(loss_for(config), engine, pairs)
    ours = engine_step(engine, pairs, loss, tokens_per_forward=40)
    restore_modules(policy)
    wanted = naive(policy, pairs, config)
    wanted.backward()
    gradients, tolerance = take_gradients(policy), TOLERANCES[torch.float32]
    assert ours.metrics["loss"] == pytest.approx(wanted.item(), rel=tolerance.value)
    worst = max(relative_l2(ours.gradients[name], gradients[name]) for name in gradients)
    assert worst <= tolerance.gradient
