"""Curves made up so that one thing is true of them, nearly true, or true of noise only."""

import math
import re
from pathlib import Path

import numpy as np
import pytest

from orpo_qlora.config import TrainConfig
from orpo_qlora.runs.curves.insight import LEAST_STEPS, RULES, judge
from orpo_qlora.runs.curves.metrics import Metrics
from orpo_qlora.runs.curves.series import Series

STEPS = 80


def noise(size, seed=0, count=STEPS):
    return np.random.default_rng(seed).normal(0, size, count)


def line(first, last, count=STEPS):
    return np.linspace(first, last, count)


def run(*, chosen, rejected, lambda_=0.2, held_out=None, nll=None, rate=None):
    """Return the metrics of a run whose other quantities follow from these."""
    gap = chosen - rejected
    or_loss = np.logaddexp(0, -gap)
    nll = -chosen if nll is None else nll
    columns = {
        "logps/chosen": chosen,
        "logps/rejected": rejected,
        "or_loss": or_loss,
        "nll_loss": nll,
        "loss": nll + lambda_ * or_loss,
        "learning_rate": np.full(len(chosen), 1e-4) if rate is None else rate,
    }
    counted = {}
    for name, values in columns.items():
        counted[name] = filled(range(1, len(values) + 1), values)
    for name, values in (held_out or {}).items():
        counted[f"eval/{name}"] = filled(range(0, 10 * len(values), 10), values)
    return Metrics(len(chosen), 1.0, counted)


def filled(steps, values):
    series = Series()
    series.extend(list(steps), list(values))
    return series, len(series)


def settings(lambda_):
    """Also a λ beyond the setting's bound."""
    return TrainConfig().model_copy(update={"lambda_": lambda_})


def verdict(metrics, lambda_=0.2):
    return judge(metrics, settings(lambda_))[0].rule


def learning(**changes):
    """A run in which all goes well."""
    curves = {
        "chosen": line(-2.5, -1.8) + noise(0.05, 1),
        "rejected": line(-2.5, -2.9) + noise(0.05, 2),
    }
    return run(**{**curves, **changes})


def test_a_run_that_learns_is_healthy():
    found = judge(learning(), settings(0.2))
    assert [one.rule for one in found] == ["healthy"]
    assert "falls" in found[0].sentence
    assert "grows" in found[0].sentence


@pytest.mark.parametrize("size", [0.005, 0.1])
def test_a_run_that_learnt_and_is_level_at_its_end_has_settled(size):
    rise = 0.7 * (1 - np.exp(-np.arange(STEPS) / (STEPS / 16)))
    metrics = run(
        chosen=-2.5 + rise + noise(size, 1),
        rejected=-2.5 - rise + noise(size, 2),
        rate=line(1e-4, 0.0),
    )
    found = judge(metrics, settings(0.2))
    assert [one.rule for one in found] == ["settled"]
    assert "fell" in found[0].sentence
    assert "grew" in found[0].sentence


def test_noise_alone_is_no_trend():
    metrics = run(chosen=-2 + noise(0.3, 1), rejected=-2.5 + noise(0.3, 2))
    assert verdict(metrics) == "no-trend"


@pytest.mark.parametrize("seed", range(20))
def test_noise_raises_no_alarm(seed):
    chosen, rejected = noise(0.3, seed), noise(0.3, seed + 100)
    metrics = run(chosen=-2 + chosen, rejected=-2.5 + rejected)
    found = judge(metrics, settings(0.2))
    assert {one.rule for one in found} <= {"no-trend", "healthy", "settled"}


@pytest.mark.parametrize("count", [1, LEAST_STEPS - 1])
def test_few_steps_are_too_early(count):
    metrics = run(chosen=line(-2.5, -1.8, count), rejected=line(-2.5, -2.9, count))
    assert verdict(metrics) == "too-early"
    assert f"{count} of the {LEAST_STEPS}" in judge(metrics, settings(0.2))[0].sentence


def test_nothing_measured_is_too_early():
    assert verdict(Metrics(0, 1.0, {})) == "too-early"


def test_a_loss_that_is_no_number_comes_first():
    metrics = learning()
    broken = Series()
    broken.extend([0, 10], [2.0, math.nan])
    counted = {**metrics.counted, "eval/loss": (broken, 1)}
    found = judge(Metrics(1, 1.0, counted), settings(0.2))
    assert found[0].rule == "not-finite"
    assert "step 10" in found[0].sentence


@pytest.mark.parametrize(
    ("chosen", "rejected", "is_overfit"),
    [(-0.1, -6.0, True), (-0.1, -4.5, False), (-0.5, -6.0, False), (-0.29, -5.1, True)],
)
def test_the_authors_sign_of_overfitting(chosen, rejected, is_overfit):
    metrics = run(chosen=np.full(60, chosen), rejected=np.full(60, rejected))
    assert (verdict(metrics) == "overfit") == is_overfit


def test_overfitting_is_seen_before_a_trend_could_be():
    metrics = run(chosen=np.full(8, -0.05), rejected=np.full(8, -7.0))
    assert [one.rule for one in judge(metrics, settings(0.2))] == ["overfit"]


@pytest.mark.parametrize(
    ("losses", "has_turned"),
    [
        ([3.0, 2.0, 1.9, 2.0, 2.1], True),
        ([3.0, 2.0, 1.9, 1.95, 1.9], False),  # back where it was
        ([3.0, 2.5, 2.0, 1.9, 2.1], False),  # one evaluation is none
        ([3.0, 1.9, 1.905, 1.91], False),  # within a hundredth
        ([3.0, 2.0, 1.8, 1.7], False),
        ([2.0, 2.5], False),
    ],
)
def test_held_out_loss_that_turned(losses, has_turned):
    metrics = learning(held_out={"loss": losses})
    assert (verdict(metrics) == "held-out-loss-turned") == has_turned
    if has_turned:
        assert "step 20 (1.9)" in judge(metrics, settings(0.2))[0].sentence


@pytest.mark.parametrize(
    ("shares", "pairs", "has_turned"),
    [
        ([0.5, 0.8, 0.9, 0.7, 0.7], 40, True),
        ([0.5, 0.8, 0.9, 0.87, 0.87], 40, False),  # one pair of forty
        ([0.5, 0.8, 0.9, 0.7, 0.9], 40, False),
        ([0.5, 0.8, 0.9, 0.7, 0.7], 6, False),  # of six pairs one or two
        ([0.5, 0.80, 0.79, 0.785], 1000, False),
        ([0.5, 0.80, 0.76, 0.75], 1000, True),
    ],
)
def test_held_out_accuracy_that_turned(shares, pairs, has_turned):
    held_out = {"logps/accuracies": shares, "pairs": [pairs] * len(shares)}
    assert (verdict(learning(held_out=held_out)) == "held-out-accuracy-turned") == has_turned


@pytest.mark.parametrize(
    ("last_chosen", "last_rejected", "is_falling"),
    [
        (-2.6, -5.0, True),  # chosen falls, the lead grows
        (-1.5, -5.0, False),  # chosen rises
        (-2.6, -2.8, False),  # both fall alike: the lead does not grow
        (-2.04, -5.0, False),  # by hundredths only
    ],
)
def test_chosen_answers_that_get_less_likely(last_chosen, last_rejected, is_falling):
    metrics = run(
        chosen=line(-2.0, last_chosen) + noise(0.02, 3),
        rejected=line(-2.2, last_rejected) + noise(0.02, 4),
        nll=line(2.5, 2.0),
    )
    assert (verdict(metrics) == "chosen-falling") == is_falling


def test_chosen_answers_that_fell_at_first_and_rise_now_are_no_warning():
    chosen = np.concatenate([line(-2.0, -2.6, 30), line(-2.6, -2.0, 50)]) + noise(0.02, 3)
    metrics = run(chosen=chosen, rejected=line(-2.2, -4.0), nll=line(2.5, 2.0))
    assert "chosen-falling" not in {one.rule for one in judge(metrics, settings(0.2))}


@pytest.mark.parametrize(
    ("lambda_", "gap", "expected"),
    [
        (0.01, 0.2, "odds-negligible"),
        (0.01, 4.0, None),  # small because the preference is learnt
        (0.1, 0.2, None),  # the usual λ
        (1.0, 0.2, None),
        (5.0, 0.2, "odds-dominant"),
        (0.0, 0.2, None),
    ],
)
def test_weight_of_the_odds_ratio(lambda_, gap, expected):
    chosen = line(-2.5, -1.8) + noise(0.02, 1)
    metrics = run(chosen=chosen, rejected=chosen - gap, lambda_=lambda_)
    found = {one.rule for one in judge(metrics, settings(lambda_))}
    assert found & {"odds-negligible", "odds-dominant"} == ({expected} if expected else set())


def test_a_high_learning_rate_is_named_by_method():
    simpo = TrainConfig(method="simpo", learning_rate=2e-4)
    found = {one.rule: one for one in judge(learning(), simpo)}
    assert "SimPO" in found["rate-high"].sentence
    assert "rate-high" not in {one.rule for one in judge(learning(), TrainConfig())}


def test_advice_names_the_setting_of_the_method():
    chosen = line(-2.0, -2.6) + noise(0.02, 3)
    metrics = run(chosen=chosen, rejected=line(-2.2, -4.0), nll=line(2.5, 2.0))
    advice = [one.advice for one in judge(metrics, TrainConfig(method="simpo", learning_rate=1e-5))]
    assert any("a smaller β" in text for text in advice)


@pytest.mark.parametrize(
    ("last", "jitter", "is_plateau"),
    [
        (-2.0, 0.002, True),
        (-1.9, 0.002, False),  # slowly, but it moves
        (-2.0, 0.5, False),  # noise hides whether it moves
    ],
)
def test_a_loss_that_stays_where_it_is(last, jitter, is_plateau):
    metrics = run(chosen=line(-2.0, last) + noise(jitter, 5), rejected=line(-2.2, last - 0.2))
    assert (verdict(metrics) == "plateau") == is_plateau


def test_a_plateau_at_the_end_of_the_schedule_is_as_it_should_be():
    flat = np.full(STEPS, -2.0) + noise(0.002, 5)
    ended = run(chosen=flat, rejected=np.full(STEPS, -2.2), rate=line(1e-4, 0.0))
    assert "plateau" not in {one.rule for one in judge(ended, settings(0.2))}


def test_training_without_rejected_answers_is_judged_by_its_loss():
    metrics = learning()
    kept = {name: metrics.counted[name] for name in ("loss", "nll_loss", "logps/chosen")}
    assert verdict(Metrics(STEPS, 1.0, kept), 0.0) == "healthy"


def test_other_warnings_follow_the_first():
    losses = [3.0, 2.0, 1.9, 2.0, 2.1]
    chosen = line(-2.5, -1.8)
    metrics = run(chosen=chosen, rejected=chosen - 0.2, lambda_=5.0, held_out={"loss": losses})
    found = [one.rule for one in judge(metrics, settings(5.0))]
    assert found == ["held-out-loss-turned", "odds-dominant"]


def test_every_rule_is_tested_here():
    text = Path(__file__).read_text(encoding="utf-8")
    assert {rule.id for rule in RULES} <= set(re.findall(r'"([a-z]+(?:-[a-z]+)*)"', text))
