"""The loss of a training: its objective, by the method's name, with what it needs. Floor 2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orpo_qlora.config import TrainConfig
from orpo_qlora.methods import LossNeeds, method_of
from orpo_qlora.orpo.objectives.base import Objective, PairSums, StepTotals, Terms
from orpo_qlora.orpo.objectives.cpo import Cpo
from orpo_qlora.orpo.objectives.orpo import Orpo
from orpo_qlora.orpo.objectives.sft import Sft
from orpo_qlora.orpo.objectives.simpo import SimPO
from orpo_qlora.orpo.packing import Needs
from orpo_qlora.orpo.tokens import TokenizedPair

OBJECTIVES: dict[str, Callable[[TrainConfig], Objective]] = {
    "orpo": Orpo.of,
    "sft": Sft.of,
    "simpo": SimPO.of,
    "cpo": Cpo.of,
}
"""By the names in `methods.METHODS`."""


@dataclass(frozen=True)
class Loss:
    """An objective and what it is a function of."""

    objective: Objective
    needs: LossNeeds

    def totals(self, pairs: Sequence[TokenizedPair]) -> StepTotals:
        """Return the pairs and NLL tokens of a step, by which its micro-steps divide."""
        tokens = sum(len(pair.chosen) for pair in pairs)
        if self.needs.nll_on == "sequence":
            # The first token of a sequence is given, not predicted.
            tokens += sum(len(pair.prompt) - 1 for pair in pairs)
        return StepTotals(len(pairs), tokens)

    def terms(
        self, pairs: Sequence[TokenizedPair], measured: PairSums, totals: StepTotals
    ) -> Terms:
        """Return one micro-step's share of a step's loss.

        Args:
            pairs: the B pairs of the micro-step.
            measured: their log-probs under the policy, in the same order.
            totals: of the whole step.
        """
        return self.objective(measured, totals)


def loss_for(config: TrainConfig) -> Loss:
    """Return the loss that these settings ask for."""
    return Loss(OBJECTIVES[config.method](config), method_of(config).needs(config))


def needs_of(config: TrainConfig) -> Needs:
    """Return which log-probs a training with these settings measures."""
    needs = method_of(config).needs(config)
    return Needs(
        prompt=needs.nll_on == "sequence", rejected=needs.rejected or config.track_rejected
    )
