"""Assertions on one step of the engine against `orpo.trl_steps`, TRL's step."""

import pytest

from orpo_qlora.config import TrainConfig
from orpo_qlora.orpo.loss import loss_for
from orpo_qlora.orpo.step import measure_pairs
from orpo_qlora.orpo.verify.parity import (
    LEAST_REWARD,
    Tolerance,
    compare_steps,
    compared_engine,
    engine_step,
    with_reference,
)
from orpo_qlora.orpo.verify.trl_steps import trl_step

ORPO = TrainConfig(lambda_=0.3)
NEAR_ZERO = {"log_odds_ratio": 1e-6, "or_loss": 0.0, "rewards/margins": 1e-7}


def assert_step_equals_trl(policy, tokenizer, pairs, tolerance: Tolerance, config=ORPO):
    """Compare loss, metrics and every adapter gradient of one step, and of an evaluation."""
    theirs = trl_step(policy, tokenizer, pairs, config)
    engine = compared_engine(policy, pairs)
    loss = with_reference(loss_for(config), engine, pairs)
    ours = engine_step(engine, pairs, loss, tokens_per_forward=64)
    differences = compare_steps(theirs, ours, tolerance)
    assert all(one.is_within for one in differences), differences
    for metrics in (ours.metrics, measure_pairs(engine, pairs, loss, 64)):
        for name, value in theirs.metrics.items():
            near_zero = NEAR_ZERO.get(name, 1e-7)
            if loss.needs.reference and name.startswith(("rewards/", "kl")):
                # Means of differences of summed log-probs, each of hundreds of nats.
                near_zero = tolerance.value * LEAST_REWARD
            wanted = pytest.approx(value, rel=tolerance.value, abs=near_zero)
            assert metrics[name] == wanted, name
