"""Intervals against arithmetic by hand and against brute force."""

import numpy as np
import pytest

from orpo_qlora.evaluation import statistics


def test_a_mean_lies_as_normal_theory_says():
    values = np.random.default_rng(1).normal(0.3, 2.0, 400)
    found = statistics.mean_interval(values, np.arange(400))
    error = statistics.Z_95 * values.std() / 20
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - error, abs=0.03)
    assert found.high == pytest.approx(values.mean() + error, abs=0.03)


def test_pairs_of_one_prompt_count_as_one_witness():
    """100 prompts with 4 equal pairs each know as much as 100 pairs, not as much as 400."""
    values = np.random.default_rng(2).normal(0.0, 1.0, 100)
    alone = statistics.mean_interval(values, np.arange(100))
    together = statistics.mean_interval(np.repeat(values, 4), np.repeat(np.arange(100), 4))
    apart = statistics.mean_interval(np.repeat(values, 4), np.arange(400))
    assert (together.low, together.high) == (pytest.approx(alone.low), pytest.approx(alone.high))
    assert apart.high - apart.low == pytest.approx((alone.high - alone.low) / 2, rel=0.1)


def test_the_same_scores_give_the_same_interval_whatever_prompts_are_called():
    values, prompts = np.array([0.1, 0.9, -1.0, 2.0, 0.0]), np.array([3, 3, 1, 0, 2])
    first = statistics.mean_interval(values, prompts)
    assert first == statistics.mean_interval(values, prompts)
    assert first.low < first.value < first.high


def test_all_won_is_not_certainty():
    """Wilson for 10 of 10: low = 10 / (10 + 1.96²) = 0.7225."""
    found = statistics.share_interval(np.ones(20, bool), np.repeat(np.arange(10), 2))
    assert (found.value, found.high, found.method) == (1.0, pytest.approx(1.0), "wilson")
    assert found.low == pytest.approx(10 / (10 + 1.959964**2))
    none = statistics.share_interval(np.zeros(20, bool), np.repeat(np.arange(10), 2))
    assert (none.low, none.high) == (0.0, pytest.approx(1 - found.low))


def test_a_paired_difference_is_narrower_than_two_shares():
    """Of 100 pairs 50 are won before; after, the same 50 and 10 more: +10 points, surely a gain."""
    before, after = np.arange(100) < 50, np.arange(100) < 60
    prompts = np.arange(100)
    change = statistics.difference_interval(before, after, prompts)
    assert change.value == pytest.approx(0.1)
    assert change.is_above_zero
    shares = [statistics.share_interval(won, prompts) for won in (before, after)]
    assert shares[0].high > shares[1].low


@pytest.mark.parametrize(
    ("before", "after", "value", "low", "high"),
    [
        (0, 0, 0.0, -0.2775, 0.2775),
        (1, 1, 0.0, -0.2775, 0.2775),
        (0, 1, 1.0, 0.4450, 1.0),
        (1, 0, -1.0, -1.0, -0.4450),
    ],
)
def test_ten_pairs_that_all_change_alike_are_not_proof(before, after, value, low, high):
    """Wilson's upper bound of 0 of 10 is 1.96² / (10 + 1.96²) = 0.2775."""
    found = statistics.difference_interval(
        np.full(10, before, bool), np.full(10, after, bool), np.arange(10)
    )
    assert found.value == value
    assert (found.low, found.high) == (
        pytest.approx(low, abs=1e-4),
        pytest.approx(high, abs=1e-4),
    )


def best_alpha(won, covariate):
    """Where on a fine grid Firth's likelihood is highest.

    It is the usual one plus half the log determinant of the information.
    """
    alpha, beta = np.meshgrid(np.linspace(-4, 8, 601), np.linspace(-0.5, 1.5, 201), indexing="ij")
    p = 1 / (1 + np.exp(-(alpha[..., None] + beta[..., None] * covariate)))
    trust = p * (1 - p)
    sums = [(trust * covariate**power).sum(-1) for power in range(3)]
    usual = np.log(np.where(won, p, 1 - p)).sum(-1)
    likelihood = usual + 0.5 * np.log(sums[0] * sums[2] - sums[1] ** 2)
    return alpha.flat[likelihood.argmax()]


@pytest.mark.parametrize("case", ["mixed", "separated", "all won"])
def test_the_logistic_fit_maximises_firth_s_likelihood(case):
    covariate = np.array([-5.0, -3.0, -1.0, 0.0, 2.0, 3.0, 4.0, 8.0])
    won = {
        "mixed": np.array([0, 1, 0, 1, 0, 1, 1, 1], bool),
        "separated": covariate > 1,
        "all won": np.ones(8, bool),
    }[case]
    found = statistics.share_at_zero(won, covariate)
    best = best_alpha(won, covariate)
    assert found.value == pytest.approx(1 / (1 + np.exp(-best)), abs=0.01)
    assert 0 < found.low < found.value < found.high < 1


def test_length_alone_explains_nothing_at_equal_length():
    """Won exactly when longer, as often as shorter: at equal length it is a coin."""
    covariate = np.array([-3.0, -2.0, -1.0, 1.0, 2.0, 3.0])
    assert statistics.share_at_zero(covariate > 0, covariate).value == pytest.approx(0.5)


def test_without_any_difference_in_length_it_is_the_share_half_a_win_added():
    """Jeffreys: (7 + ½) / (10 + 1)."""
    found = statistics.share_at_zero(np.arange(10) < 7, np.zeros(10))
    assert found.value == pytest.approx(7.5 / 11)
