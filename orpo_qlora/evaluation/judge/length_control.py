"""Length-controlled win rate, the minimal form of AlpacaEval 2's. Floor 5; no torch.

Dubois et al. (2404.04475): logit P(win) = θ·tanh(Δ / sd(Δ)) + γ, where Δ is the difference of the
answers' lengths in characters, read at Δ = 0 as σ(γ). Their term per instruction needs a table that
the package downloads; it is left out.
"""

from __future__ import annotations

import math

import numpy as np

from orpo_qlora.evaluation.statistics import Values, logistic, share_at_zero
from orpo_qlora.runs.curves.intervals import Z_95, Interval

MOST_STEPS = 100
MOST_WEIGHT = 15.0
"""Beyond this logit the outcomes are separated and have no finite fit."""


def controlled_win_rate(outcomes: Values, differences: Values) -> Interval:
    """Return the win rate at equal length with Wald's interval, robust to ties.

    Where the outcomes are separated the fit has Firth's penalty, with a tie counted as a loss.

    Args:
        outcomes: 1 for a win, 0.5 for a tie, 0 for a loss, shape (n,).
        differences: length of our answer minus the other's in characters, shape (n,).
    """
    spread = float(differences.std())
    covariate = np.tanh(differences / spread) if spread else np.zeros(len(outcomes))
    columns = [np.ones(len(outcomes))] + ([covariate] if spread else [])
    design = np.stack(columns, axis=1)
    weights = np.zeros(design.shape[1])
    for _ in range(MOST_STEPS):
        fitted = logistic(design @ weights)
        information = design.T @ ((fitted * (1 - fitted))[:, None] * design)
        step = np.linalg.solve(
            information + 1e-12 * np.eye(len(weights)), _score(design, outcomes, fitted)
        )
        weights = weights + step
        if float(np.abs(weights).max()) > MOST_WEIGHT:
            return share_at_zero(outcomes > 0.5, covariate)
        if float(np.abs(step).max()) < 1e-10:
            break
    error = _standard_error(design, outcomes, logistic(design @ weights))
    low, value, high = (
        float(logistic(np.asarray(weights[0] + shift))) for shift in (-error, 0.0, error)
    )
    return Interval(value, low, high, "logistic")


def _score(design: Values, outcomes: Values, fitted: Values) -> Values:
    return np.asarray(design.T @ (outcomes - fitted))


def _standard_error(design: Values, outcomes: Values, fitted: Values) -> float:
    """Return 1.96 robust standard errors (sandwich) of the intercept."""
    bread = np.linalg.pinv(design.T @ ((fitted * (1 - fitted))[:, None] * design))
    meat = design.T @ (np.square(outcomes - fitted)[:, None] * design)
    return Z_95 * math.sqrt(max(0.0, float((bread @ meat @ bread)[0, 0])))
