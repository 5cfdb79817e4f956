"""What an objective reads and returns: summed log-probs in, loss and metrics out. Floor 2.

An objective is a pure function of these. How the log-probs were computed (packed, padded, cut into
micro-steps) is not known to it, so it cannot change the result.

Shapes: B pairs of a micro-step. Log-probs are in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor
from torch.nn import functional as F

PROMPT, CHOSEN, REJECTED = 0, 1, 2


@dataclass(frozen=True)
class PairSums:
    """Token log-probs of B pairs, summed by part.

    `sums` has shape (B, 3), columns prompt, chosen, rejected; `counts` likewise, the number of
    tokens in each sum, 0 for responses that were not measured or that a pair does not have.
    """

    sums: Tensor
    counts: Tensor
    has_rejected: bool = True
    """Whether the rejected responses were measured."""
    reference: Tensor | None = None
    """Sums under the reference, shape (B, 3), for objectives that need them."""
    has_single: bool = False
    """Whether some pairs are a single labelled response, chosen or rejected."""

    @property
    def chosen(self) -> Tensor:
        """Mean token log-probs of the chosen responses, shape (B,); NaN where there is none."""
        return self.sums[:, CHOSEN] / self.counts[:, CHOSEN]

    @property
    def rejected(self) -> Tensor:
        """Mean token log-probs of the rejected responses, shape (B,); NaN if not measured."""
        return self.sums[:, REJECTED] / self.counts[:, REJECTED]

    @property
    def present(self) -> Tensor:
        """Which responses there are: 1 or 0, shape (B, 2), columns chosen and rejected."""
        return (self.counts[:, CHOSEN:] > 0).to(self.sums.dtype)

    @property
    def gains(self) -> Gains:
        """Summed log-probs minus those of the reference.

        Raises:
            ValueError: the reference was not measured; a fault of ours.
        """
        if self.reference is None:
            raise ValueError("this objective needs the reference's log-probs")
        difference = self.sums - self.reference
        return Gains(difference[:, CHOSEN], difference[:, REJECTED])


@dataclass(frozen=True)
class Gains:
    """Log-ratios of policy and reference, each of shape (B,), in nats; 0 without a response."""

    chosen: Tensor
    rejected: Tensor


@dataclass(frozen=True)
class StepTotals:
    """What a whole optimizer step consists of; its micro-steps divide by these."""

    pairs: int
    nll_tokens: int
    responses: int
    """Two for each pair, one for each single labelled response."""
    drift: Tensor | None = None
    """Mean log-ratio of policy and reference on mismatched responses, at least 0; a scalar without
    gradient, for objectives that need it."""


@dataclass(frozen=True)
class Terms:
    """One micro-step's share of the step's loss, and its metrics.

    Only `loss` carries a gradient.
    """

    loss: Tensor
    """Scalar; the shares of a step's micro-steps add up to the step's loss."""
    parts: Mapping[str, Tensor]
    """Scalars that add up likewise, by metric name: the unweighted components of the loss."""
    pairs: Mapping[str, Tensor] = field(default_factory=dict)
    """Values of shape (B,) by metric name, or of those pairs that have one; a step reports their
    means."""


Objective = Callable[[PairSums, StepTotals], Terms]


def nll_share(pairs: PairSums, totals: StepTotals, nll_on: str, nll_reduction: str) -> Tensor:
    """Return one micro-step's share of the NLL of the chosen responses, a scalar in nats.

    Args:
        pairs: sums and counts, each (B, 3).
        totals: of the whole step.
        nll_on: `sequence` is prompt + chosen, `answer` the chosen response alone.
        nll_reduction: `token` is the mean over the tokens of the step, `pair` that over its pairs.
    """
    sums, counts = pairs.sums[:, CHOSEN], pairs.counts[:, CHOSEN]
    if nll_on == "sequence":
        sums, counts = sums + pairs.sums[:, PROMPT], counts + pairs.counts[:, PROMPT]
    if nll_reduction == "token":
        return -sums.sum() / totals.nll_tokens
    return -(sums / counts).sum() / totals.pairs


def sigmoid_loss(margins: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return −(1 − ε)·log σ(m) − ε·log σ(−m) of reward margins m, shape (B,), ε the smoothing."""
    if not label_smoothing:
        return -F.logsigmoid(margins)
    return -(1 - label_smoothing) * F.logsigmoid(margins) - label_smoothing * F.logsigmoid(-margins)
