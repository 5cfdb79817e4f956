"""Shares and means with their confidence intervals. Floor 5; no torch.

Pairs with the same prompt are not independent, so prompts are resampled with all their pairs (a
cluster bootstrap). The seed is fixed: the same scores give the same intervals.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from orpo_qlora.runs.curves.intervals import Z_95, Interval, wilson

RESAMPLES = 2000
SEED = 20_240_307
LOW, HIGH = 2.5, 97.5
"""Percentiles of a 95 % interval."""
DRAWN_AT_ONCE = 64
MOST_STEPS = 200
LONGEST_STEP = 1.0

Values = NDArray[np.float64]
Labels = NDArray[np.int64]
Statistic = Callable[[Values], Values]
"""From weights of n things in R draws, shape (R, n), to R numbers; NaN where there is none."""


def bootstrap(value: float, count: int, statistic: Statistic) -> Interval:
    """Return a number with the interval of its statistic over draws of `count` things.

    Draws without a number are left out; where none has one, the interval is the number itself.
    """
    generator = np.random.default_rng(SEED)
    found = []
    for start in range(0, RESAMPLES, DRAWN_AT_ONCE):
        rows = min(DRAWN_AT_ONCE, RESAMPLES - start)
        drawn = generator.multinomial(count, np.full(count, 1 / count), size=rows)
        found.append(statistic(drawn.astype(np.float64)))
    draws = np.concatenate(found)
    kept = draws[np.isfinite(draws)]
    low, high = np.percentile(kept, [LOW, HIGH]) if len(kept) else (value, value)
    return Interval(value=value, low=float(low), high=float(high))


def mean_interval(values: Values, prompts: Labels) -> Interval:
    """Return the mean over pairs with its bootstrap interval; of a single prompt, pairs are drawn.

    Args:
        values: one number a pair, shape (n,), n at least 1.
        prompts: which prompt each pair belongs to, shape (n,).
    """
    if _count(prompts) < 2:
        prompts = np.arange(len(values))
    _, clusters = np.unique(prompts, return_inverse=True)
    sums, sizes = np.bincount(clusters, values), np.bincount(clusters)
    return bootstrap(
        float(values.mean()), len(sums), lambda drawn: (drawn @ sums) / (drawn @ sizes)
    )


def share_interval(won: NDArray[np.bool_], prompts: Labels) -> Interval:
    """Return the share of pairs that are won with its interval.

    Where all are won, or none, every resample gives the same share; the interval is then Wilson's,
    with every prompt counted once.
    """
    if won.all() or not won.any():
        return wilson(float(won.all()), _count(prompts))
    return mean_interval(won.astype(np.float64), prompts)


def difference_interval(
    before: NDArray[np.bool_], after: NDArray[np.bool_], prompts: Labels
) -> Interval:
    """Return how the share of won pairs changed, pair by pair, with its interval.

    Where all pairs changed alike, or none did, the interval is Wilson's bound on the share of pairs
    that could have changed otherwise, times the size of that change: 1 from none, 2 from one.
    """
    changes = after.astype(np.float64) - before.astype(np.float64)
    if np.ptp(changes) > 0:
        return mean_interval(changes, prompts)
    value = float(changes[0])
    reach = wilson(0.0, _count(prompts)).high * (2 if value else 1)
    low, high = max(-1.0, value - reach), min(1.0, value + reach)
    return Interval(value=value, low=low, high=high, method="wilson")


def _count(prompts: Labels) -> int:
    return len(np.unique(prompts))


def win_interval(outcomes: Values, prompts: Labels) -> Interval:
    """Return a win rate with its interval; where all outcomes are equal, by Wilson's bound.

    Args:
        outcomes: 1 for a win, 0.5 for a tie, 0 for a loss, shape (n,), n at least 1.
        prompts: which prompt each comparison belongs to, shape (n,).
    """
    if np.ptp(outcomes) > 0:
        return mean_interval(outcomes, prompts)
    value = float(outcomes[0])
    # The share of prompts that could have been won or lost instead, each a change of this size.
    reach = wilson(0.0, _count(prompts)).high * max(value, 1 - value)
    return Interval(value, max(0.0, value - reach), min(1.0, value + reach), "wilson")


def share_at_zero(won: NDArray[np.bool_], covariate: Values) -> Interval:
    """Return the share of won pairs that a logistic fit reads off where the covariate is zero.

    P(won) = σ(α + β·covariate), read as σ(α). Fitted with Firth's penalty (Jeffreys' prior), which
    stays finite where every pair is won; the interval is Wald's, for independent pairs.
    """
    spread = float(covariate.std())
    columns = [np.ones(len(won))] + ([covariate / spread] if spread else [])
    design, outcome = np.stack(columns, axis=1), won.astype(np.float64)
    weights = np.zeros(design.shape[1])
    for _ in range(MOST_STEPS):
        fitted = logistic(design @ weights)
        trust = fitted * (1 - fitted)
        information = design.T @ (trust[:, None] * design)
        leverage = trust * np.einsum("ij,ij->i", design @ np.linalg.inv(information), design)
        score = design.T @ (outcome - fitted + leverage * (0.5 - fitted))
        step = np.linalg.solve(information, score)
        weights = weights + step * min(1.0, LONGEST_STEP / float(np.abs(step).max() or 1.0))
        if float(np.abs(step).max()) < 1e-10:
            break
    error = Z_95 * math.sqrt(float(np.linalg.inv(information)[0, 0]))
    low, value, high = (
        float(logistic(np.asarray(weights[0] + shift))) for shift in (-error, 0.0, error)
    )
    return Interval(value=value, low=low, high=high, method="logistic")


def logistic(values: Values) -> Values:
    """Return σ(x), by tanh, which does not overflow."""
    return np.asarray(0.5 * (1 + np.tanh(values / 2)))
