"""The training methods: what each one's loss needs and consists of. Ground floor; no torch.

The losses themselves are in `orpo.objectives`, under the same names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from orpo_qlora.config import TrainConfig


@dataclass(frozen=True)
class LossNeeds:
    """What a loss is a function of, besides the log-probs of the chosen responses."""

    nll_on: Literal["sequence", "answer"] | None
    """Tokens of its NLL; None for a loss without one."""
    rejected: bool


@dataclass(frozen=True)
class Part:
    """One component of a loss, as recorded and as displayed."""

    metric: str
    label: str
    weight: Callable[[TrainConfig], float] = lambda config: 1.0
    """Its factor in the loss."""


@dataclass(frozen=True)
class Method:
    """One training method."""

    title: str
    needs: Callable[[TrainConfig], LossNeeds]
    parts: Callable[[TrainConfig], tuple[Part, ...]]
    """The components that add up to the loss, the NLL first."""


NLL = Part("nll_loss", "NLL")

METHODS: dict[str, Method] = {
    "orpo": Method(
        title="ORPO",
        needs=lambda config: LossNeeds(nll_on=config.nll_on, rejected=config.lambda_ > 0),
        parts=lambda config: (NLL, Part("or_loss", "λ·OR", lambda config: config.lambda_)),
    ),
}


def method_of(config: TrainConfig) -> Method:
    """Return the method of a run."""
    return METHODS["orpo"]
