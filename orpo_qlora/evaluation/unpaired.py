"""Chosen against rejected responses that are not paired: accuracy and margin. Floor 5; no torch.

The accuracy is the share of all combinations of a chosen with a rejected response in which the
chosen one has the higher mean token log-prob (the area under the ROC curve). Intervals are 95 %
bootstrap intervals over prompts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orpo_qlora.evaluation.statistics import Labels, Statistic, Values, bootstrap
from orpo_qlora.runs.curves.intervals import Interval


@dataclass(frozen=True)
class Responses:
    """Labelled responses of held-out prompts, each array of shape (n,)."""

    is_chosen: NDArray[np.bool_]
    prompts: Labels

    def accuracy(self, logps: Values) -> Statistic:
        """Return the statistic of the share of combinations that the chosen response wins."""
        order = np.argsort(logps, kind="stable")
        ranked, is_chosen = logps[order], self.is_chosen[order]
        below = np.searchsorted(ranked, ranked, side="left")  # ties are not won

        def statistic(weights: Values) -> Values:
            each = weights[:, order]
            chosen, rejected = each * is_chosen, each * ~is_chosen
            sums = np.concatenate([np.zeros((len(each), 1)), rejected.cumsum(axis=1)], axis=1)
            with np.errstate(invalid="ignore", divide="ignore"):
                total = chosen.sum(axis=1) * rejected.sum(axis=1)
                return np.asarray((chosen * sums[:, below]).sum(axis=1) / total)

        return statistic

    def margin(self, logps: Values) -> Statistic:
        """Return the statistic of the mean of chosen minus that of rejected responses."""

        def statistic(weights: Values) -> Values:
            chosen, rejected = weights * self.is_chosen, weights * ~self.is_chosen
            with np.errstate(invalid="ignore", divide="ignore"):
                means = [side @ logps / side.sum(axis=1) for side in (chosen, rejected)]
            return np.asarray(means[0] - means[1])

        return statistic

    def interval(self, statistic: Statistic) -> Interval:
        """Return a statistic with its bootstrap interval over prompts."""
        _, clusters = np.unique(self.prompts, return_inverse=True)
        value = float(statistic(np.ones((1, len(self.prompts))))[0])
        count = int(clusters.max()) + 1
        return bootstrap(value, count, lambda drawn: statistic(drawn[:, clusters]))


def both(after: Statistic, before: Statistic) -> Statistic:
    """Return the statistic of a change, under the same weights."""
    return lambda weights: after(weights) - before(weights)
