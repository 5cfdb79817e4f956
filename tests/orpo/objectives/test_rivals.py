"""Every method against its formula written out, one pair at a time; any cut gives the same step."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from policies import make_policy, random_pairs

from orpo_qlora.config import TrainConfig
from orpo_qlora.methods import METHODS, LossNeeds
from orpo_qlora.orpo.engine import build_engine
from orpo_qlora.orpo.loss import OBJECTIVES, loss_for, mismatch, needs_of
from orpo_qlora.orpo.objectives.base import PairSums, StepTotals
from orpo_qlora.orpo.objectives.measurements import compare_responses
from orpo_qlora.orpo.reference import digest_of
from orpo_qlora.orpo.rows.packing import LAYOUTS
from orpo_qlora.orpo.rows.tokens import TokenizedPair
from orpo_qlora.orpo.step import accumulate_step
from orpo_qlora.orpo.verify.parity import relative_l2, take_gradients, with_reference
from orpo_qlora.orpo.verify.trl_steps import TRL_METHODS
from orpo_qlora.setting import MethodName

# Token log-probs of three pairs under the policy and under the reference: prompt, chosen, rejected.
POLICY = [
    ([-1.0, -2.0], [-0.5, -1.5], [-2.0]),
    ([-3.0], [-1.0], [-0.5, -0.5, -2.0]),
    ([-0.25, -0.25, -0.5], [-2.0, -1.0, -3.0], [-1.0, -1.0]),
]
REFERENCE = [
    ([-1.0, -2.0], [-0.7, -1.9], [-1.0]),
    ([-3.0], [-1.2], [-0.1, -0.9, -1.0]),
    ([-0.25, -0.25, -0.5], [-1.0, -1.5, -3.2], [-1.0, -2.0]),
]
DRIFT = 0.3


def log_sigmoid(x):
    return -math.log1p(math.exp(-x))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def sums_of(tokens):
    return torch.tensor([[sum(part) for part in pair] for pair in tokens], dtype=torch.float64)


def terms_of(config):
    counts = torch.tensor([[len(part) for part in pair] for pair in POLICY], dtype=torch.float64)
    pairs = PairSums(sums_of(POLICY), counts, reference=sums_of(REFERENCE))
    nll_on = loss_for(config).needs.nll_on
    tokens = counts[:, 1].sum() + (counts[:, 0].sum() if nll_on == "sequence" else 0)
    drift = torch.tensor(DRIFT, dtype=torch.float64)
    return loss_for(config).objective(pairs, StepTotals(3, int(tokens), 6, drift))


def nll(nll_on):
    tokens = [t for p, c, _ in POLICY for t in (c if nll_on == "answer" else p + c)]
    return -mean(tokens)


def gains():
    return [
        (sum(c) - sum(rc), sum(r) - sum(rr), len(c), len(r))
        for (_, c, r), (_, rc, rr) in zip(POLICY, REFERENCE, strict=True)
    ]


def smoothed(margin, epsilon):
    return -(1 - epsilon) * log_sigmoid(margin) - epsilon * log_sigmoid(-margin)


EXPECTED = [
    ({"method": "sft"}, lambda: nll("sequence")),
    ({"method": "sft", "nll_on": "answer"}, lambda: nll("answer")),
    (
        {"method": "orpo", "ratio": "probability", "lambda": 0.4},
        lambda: nll("sequence") + 0.4 * mean(-log_sigmoid(mean(c) - mean(r)) for _, c, r in POLICY),
    ),
    ({"method": "dpo"}, lambda: mean(-log_sigmoid(0.1 * (w - r)) for w, r, _, _ in gains())),
    (
        {"method": "dpo", "beta": 0.7, "label_smoothing": 0.2},
        lambda: mean(smoothed(0.7 * (w - r), 0.2) for w, r, _, _ in gains()),
    ),
    (
        {"method": "ipo", "beta": 0.5},
        lambda: mean((w / n - r / m - 1) ** 2 for w, r, n, m in gains()),
    ),
    (
        {"method": "simpo", "label_smoothing": 0.1},
        lambda: mean(smoothed(2 * (mean(c) - mean(r)) - 1, 0.1) for _, c, r in POLICY),
    ),
    (
        {"method": "cpo", "beta": 0.3, "cpo_alpha": 0.5},
        lambda: (
            mean(-log_sigmoid(0.3 * (sum(c) - sum(r))) for _, c, r in POLICY) + 0.5 * nll("answer")
        ),
    ),
    (
        {"method": "kto", "beta": 0.5, "desirable_weight": 1.5, "undesirable_weight": 0.8},
        lambda: mean(
            (1.5 * (1 - sigmoid(0.5 * (w - DRIFT))) + 0.8 * (1 - sigmoid(0.5 * (DRIFT - r)))) / 2
            for w, r, _, _ in gains()
        ),
    ),
]


@pytest.mark.parametrize(
    ("given_settings", "expected"),
    EXPECTED,
    ids=lambda value: str(value) if isinstance(value, dict) else "formula",
)
def test_agrees_with_the_formula_written_out(given_settings, expected):
    terms = terms_of(TrainConfig(**given_settings))
    assert terms.loss.item() == pytest.approx(expected(), rel=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_components_add_up_to_the_loss(method):
    config = TrainConfig(method=method)
    terms, parts = terms_of(config), METHODS[method].parts(config)
    assert terms.parts.keys() == {part.metric for part in parts}
    total = sum(part.weight * terms.parts[part.metric].item() for part in parts)
    assert terms.loss.item() == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_measurements_are_the_same_under_every_method(method):
    names = ("logps/chosen", "logps/rejected", "log_odds_ratio", "logps/accuracies")
    wanted = terms_of(TrainConfig()).pairs
    measured = terms_of(TrainConfig(method=method)).pairs
    assert all(torch.equal(measured[name], wanted[name]) for name in names)


def test_every_method_has_a_setting_an_objective_and_a_trainer_in_trl():
    names = MethodName.__args__
    assert set(names) == set(METHODS) == set(OBJECTIVES) == set(TRL_METHODS)


def test_needs_follow_the_settings():
    assert METHODS["orpo"].needs(TrainConfig(lambda_=0)) == LossNeeds("sequence", rejected=False)
    untracked = TrainConfig(method="sft", track_rejected=False, nll_on="answer")
    needs = needs_of(untracked)
    assert (needs.prompt, needs.rejected) == (False, False)
    assert needs_of(TrainConfig(method="dpo", track_rejected=False)).rejected


def test_an_empty_beta_is_the_methods_own():
    config = TrainConfig(method="simpo", beta="auto")
    assert config.beta is None
    assert loss_for(config).objective.beta == 2
    assert loss_for(config.model_copy(update={"method": "dpo"})).objective.beta == 0.1


CASES = [
    *({"method": method} for method in METHODS),
    {"method": "orpo", "ratio": "probability"},
]
POLICY_64 = make_policy("llama-tied")


@given(seed=st.integers(0, 10_000), count=st.integers(2, 6), budget=st.integers(1, 150))
@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.parametrize("case", CASES, ids=str)
def test_order_and_token_budget_do_not_change_the_step(whole_float64, case, seed, count, budget):
    pairs, config = random_pairs(count, seed=seed), TrainConfig(**case)
    built = build_engine(POLICY_64, needs_of(config), pairs)
    loss = with_reference(loss_for(config), built, pairs)
    whole = accumulate_step(built, pairs, loss, 10_000, torch.Tensor.backward)
    wanted = take_gradients(POLICY_64)
    again = accumulate_step(built, pairs[::-1], loss, budget, torch.Tensor.backward)
    measured = take_gradients(POLICY_64)
    assert again["loss"] == pytest.approx(whole["loss"], rel=1e-10)
    assert all(relative_l2(measured[n], wanted[n]) < 1e-9 for n in wanted)


def single_terms(config):
    """The chosen response of the first two pairs, the rejected one of the third."""
    counts = torch.tensor([[2, 2, 0], [1, 1, 0], [3, 0, 2]], dtype=torch.float64)
    here = (counts > 0).double()
    sums, reference = sums_of(POLICY) * here, sums_of(REFERENCE) * here
    pairs = PairSums(sums, counts, reference=reference, has_single=True)
    drift = torch.tensor(DRIFT, dtype=torch.float64) if loss_for(config).needs.mismatched else None
    return loss_for(config).objective(pairs, StepTotals(3, 0, 3, drift))


@pytest.mark.parametrize("kto_loss", ["kto", "apo_zero_unpaired"])
def test_single_responses_agree_with_the_formula_written_out(kto_loss):
    """g = 0.6 and 0.2 of the chosen responses, 1.0 of the rejected one."""
    config = TrainConfig(
        method="kto", beta=0.5, desirable_weight=1.5, undesirable_weight=0.8, kto_loss=kto_loss
    )
    terms, k = single_terms(config), DRIFT if kto_loss == "kto" else 0
    expected = mean(
        [
            *(1.5 * (1 - sigmoid(0.5 * (g - k))) for g in (0.6, 0.2)),
            0.8 * (1 - sigmoid(0.5 * (k - 1.0))),
        ]
    )
    assert terms.loss.item() == pytest.approx(expected, rel=1e-12)
    assert terms.pairs["rewards/chosen"].tolist() == pytest.approx([0.3, 0.1])
    assert terms.pairs["rewards/rejected"].tolist() == pytest.approx([0.5])
    assert terms.pairs["logps/rejected"].tolist() == [-1.0]
    assert "log_odds_ratio" not in terms.pairs


def test_unpaired_responses_are_compared_across_prompts():
    values = {
        "logps/chosen": torch.tensor([-1.0, -3.0]),
        "logps/rejected": torch.tensor([-2.0, -1.0, -4.0]),
        "rewards/chosen": torch.tensor([0.4, 0.2]),
        "rewards/rejected": torch.tensor([-0.1]),
    }
    found = {name: value.item() for name, value in compare_responses(values).items()}
    assert found == pytest.approx(
        {"logps/accuracies": 3 / 6, "rewards/accuracies": 1, "rewards/margins": 0.4}
    )
    assert compare_responses({"logps/chosen": torch.tensor([-1.0])}) == {}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_single_responses_are_the_same_in_every_layout_and_cut(whole_float64, layout):
    config, whole = TrainConfig(method="kto"), random_pairs(6, seed=3)
    singles = [replace(p, **{("chosen", "rejected")[p.row % 2]: ()}) for p in whole[:4]]
    pairs = [*singles, *whole[4:]]
    built = build_engine(POLICY_64, needs_of(config), pairs)
    loss = with_reference(loss_for(config), built, pairs)
    wanted = accumulate_step(built, pairs, loss, 10_000, torch.Tensor.backward)
    gradients = take_gradients(POLICY_64)
    other = build_engine(POLICY_64, needs_of(config), pairs)
    if layout == "padded":
        POLICY_64.get_base_model().set_attn_implementation("sdpa")
    again = accumulate_step(
        replace(other, layout=layout), pairs[::-1], loss, 40, torch.Tensor.backward
    )
    measured = take_gradients(POLICY_64)
    same = [name for name in wanted if name.startswith(("loss", "logps", "rewards", "kl"))]
    assert {name: again[name] for name in same} == pytest.approx(
        {name: wanted[name] for name in same}, rel=1e-9
    )
    assert all(relative_l2(measured[n], gradients[n]) < 1e-9 for n in gradients)
    assert (wanted["pairs"], wanted["forwards"]) == (6, 16)  # 8 responses, and 8 mismatched


def test_mismatched_responses_belong_to_another_prompt():
    same = [TokenizedPair((1, 2), (row, 3), (row, 4), row) for row in (5, 6)]
    others = [TokenizedPair((row, 2), (row, 3), (row, 4), row) for row in (7, 8)]
    pairs = [*same, *others]
    partners = mismatch(pairs, 100)
    assert mismatch(pairs[::-1], 100) == partners
    first = [partners[digest_of(pair)].chosen[0] for pair in pairs]
    assert first == [8, 8, 6, 7]
    assert all(partners[digest_of(pair)].prompt == pair.prompt for pair in pairs)
    assert len(mismatch(pairs, 3)[digest_of(same[0])].chosen) == 1
