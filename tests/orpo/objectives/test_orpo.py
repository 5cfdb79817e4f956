import math

import pytest
import torch

from orpo_qlora.orpo.objectives.base import PairSums, StepTotals
from orpo_qlora.orpo.objectives.log_odds import log1mexp, log_odds, log_odds_ratio, logp_ceiling
from orpo_qlora.orpo.objectives.orpo import Orpo, or_loss

# Token log-probs of three pairs: prompt, chosen, rejected.
TOKENS = [
    ([-1.0, -2.0], [-0.5, -1.5], [-2.0]),
    ([-3.0], [-1.0], [-0.5, -0.5, -2.0]),
    ([-0.25, -0.25, -0.5], [-2.0, -1.0, -3.0], [-1.0, -1.0]),
]


def pair_sums(tokens, dtype=torch.float64):
    sums = torch.tensor([[sum(part) for part in pair] for pair in tokens], dtype=dtype)
    counts = torch.tensor([[len(part) for part in pair] for pair in tokens], dtype=dtype)
    return PairSums(sums, counts)


def naive_loss(tokens, lambda_, nll_on, nll_reduction):
    """The paper's formula, one pair at a time, probabilities and all."""
    nlls, weights, odds_terms = [], [], []
    for prompt, chosen, rejected in tokens:
        trained = chosen if nll_on == "answer" else prompt + chosen
        nlls.append(-sum(trained) / len(trained))
        weights.append(len(trained))
        p_chosen = math.exp(sum(chosen) / len(chosen))
        p_rejected = math.exp(sum(rejected) / len(rejected))
        ratio = (p_chosen / (1 - p_chosen)) / (p_rejected / (1 - p_rejected))
        odds_terms.append(-math.log(1 / (1 + 1 / ratio)))
    if nll_reduction == "pair":
        weights = [1] * len(tokens)
    nll = sum(n * w for n, w in zip(nlls, weights, strict=True)) / sum(weights)
    return nll + lambda_ * sum(odds_terms) / len(tokens)


def totals_of(tokens, nll_on):
    count = sum(len(c) + (len(p) if nll_on == "sequence" else 0) for p, c, _ in tokens)
    return StepTotals(len(tokens), count, 2 * len(tokens))


def test_one_pair_by_hand():
    """Chosen: mean −ln 2, so p = 1/2 and odds 1. Rejected: mean −ln 4, so p = 1/4, odds 1/3.

    z = ln 3; −log σ(ln 3) = ln(1 + 1/3) = ln(4/3) = 0.28768.
    NLL over prompt (−1) and two chosen tokens (−ln 2 each) = (1 + 2 ln 2) / 3 = 0.79543.
    Loss at λ = 0.5: 0.79543 + 0.5 · 0.28768 = 0.93927.
    """
    ln2 = math.log(2)
    pairs = pair_sums([([-1.0], [-ln2, -ln2], [-2 * ln2])])
    terms = Orpo(0.5, "sequence", "token")(pairs, StepTotals(1, 3, 2))
    assert terms.pairs["log_odds_ratio"].item() == pytest.approx(math.log(3), abs=1e-12)
    assert terms.parts["or_loss"].item() == pytest.approx(math.log(4 / 3), abs=1e-12)
    assert terms.parts["nll_loss"].item() == pytest.approx((1 + 2 * ln2) / 3, abs=1e-12)
    assert terms.loss.item() == pytest.approx(0.93927, abs=1e-5)


@pytest.mark.parametrize("nll_on", ["sequence", "answer"])
@pytest.mark.parametrize("nll_reduction", ["token", "pair"])
@pytest.mark.parametrize("lambda_", [0.0, 0.1, 1.0])
def test_agrees_with_the_formula_written_out(nll_on, nll_reduction, lambda_):
    orpo = Orpo(lambda_, nll_on, nll_reduction)
    terms = orpo(pair_sums(TOKENS), totals_of(TOKENS, nll_on))
    expected = naive_loss(TOKENS, lambda_, nll_on, nll_reduction)
    assert terms.loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("nll_reduction", ["token", "pair"])
def test_shares_of_micro_steps_add_up_to_the_step(nll_reduction):
    orpo, totals = Orpo(0.3, "sequence", nll_reduction), totals_of(TOKENS, "sequence")
    whole = orpo(pair_sums(TOKENS), totals)
    shares = [orpo(pair_sums(part), totals) for part in (TOKENS[:1], TOKENS[1:])]
    assert sum(share.loss.item() for share in shares) == pytest.approx(whole.loss.item(), rel=1e-14)


def test_gradient_is_the_closed_form_of_the_paper():
    """Equations 8 to 10: ∇ log σ(z) = δ·h, δ = 1/(1 + odds_w/odds_l), h = ∇a/(1−p_w) − ∇b/(1−p_l).

    The loss is minus that.
    """
    a = torch.tensor([-0.1, -1.0, -3.0, -1e-4], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([-2.0, -0.2, -3.0, -5.0], dtype=torch.float64, requires_grad=True)
    or_loss(a, b).sum().backward()
    p_w, p_l = a.detach().exp(), b.detach().exp()
    delta = 1 / (1 + (p_w / (1 - p_w)) / (p_l / (1 - p_l)))
    torch.testing.assert_close(a.grad, -delta / (1 - p_w), rtol=1e-10, atol=0)
    torch.testing.assert_close(b.grad, delta / (1 - p_l), rtol=1e-10, atol=0)


def test_gradcheck_in_float64():
    a = torch.tensor([-0.02, -0.7, -2.0], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([-1.0, -0.69, -9.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, y: or_loss(x, y), (a, b))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("logp", [math.log1p(-1e-9), -3e-8, -1e-8, -1e-30, 0.0, -80.0, -1e4])
def test_certain_and_hopeless_answers_stay_finite(dtype, logp):
    """TRL 1.16's log1mexp gives a NaN gradient at −1e-8 in float32."""
    a = torch.tensor([logp], dtype=dtype, requires_grad=True)
    b = torch.tensor([-1.0], dtype=dtype, requires_grad=True)
    for chosen, rejected in ((a, b), (b, a)):
        loss = or_loss(chosen, rejected).sum()
        loss.backward()
        assert loss.isfinite()
        assert a.grad.isfinite().all()
        assert b.grad.isfinite().all()


def test_log1mexp_is_accurate_on_both_branches():
    x = torch.tensor([-1e-6, -0.1, -0.6931, -0.6932, -5.0, -40.0], dtype=torch.float64)
    expected = [math.log(-math.expm1(v)) for v in x.tolist()]
    torch.testing.assert_close(log1mexp(x), torch.tensor(expected, dtype=torch.float64))


def test_log_odds_are_capped_where_the_number_type_ends():
    x = torch.zeros(1)
    assert log_odds(x).item() == pytest.approx(-math.log(-logp_ceiling(torch.float32)), rel=1e-6)


def test_equal_answers_have_even_odds():
    x = torch.tensor([-0.3, -7.0])
    assert log_odds_ratio(x, x).tolist() == [0.0, 0.0]
    torch.testing.assert_close(or_loss(x, x), torch.full((2,), math.log(2)))


def test_lambda_zero_is_plain_sft_and_needs_no_rejected_answers():
    pairs = pair_sums([(p, c, []) for p, c, _ in TOKENS])
    sums = pairs.sums.requires_grad_()
    measured = PairSums(sums, pairs.counts, has_rejected=False)
    terms = Orpo(0.0, "sequence", "token")(measured, totals_of(TOKENS, "sequence"))
    tokens = [token for prompt, chosen, _ in TOKENS for token in prompt + chosen]
    assert terms.loss.item() == pytest.approx(-sum(tokens) / len(tokens), rel=1e-14)
    terms.loss.backward()
    torch.testing.assert_close(
        sums.grad, torch.tensor([[-1.0, -1.0, 0.0]] * 3, dtype=torch.float64) / len(tokens)
    )
    assert terms.pairs.keys() == {"logps/chosen", "rewards/chosen"}
    assert terms.parts.keys() == {"nll_loss"}
