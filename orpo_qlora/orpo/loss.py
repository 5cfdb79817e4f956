"""The loss of a training: its objective, by the method's name, with what it needs. Floor 2."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from orpo_qlora.config import TrainConfig
from orpo_qlora.methods import LossNeeds, method_of
from orpo_qlora.orpo.objectives.base import Objective, PairSums, StepTotals, Terms
from orpo_qlora.orpo.objectives.cpo import Cpo
from orpo_qlora.orpo.objectives.dpo import Dpo
from orpo_qlora.orpo.objectives.ipo import Ipo
from orpo_qlora.orpo.objectives.kto import Kto
from orpo_qlora.orpo.objectives.orpo import Orpo
from orpo_qlora.orpo.objectives.sft import Sft
from orpo_qlora.orpo.objectives.simpo import SimPO
from orpo_qlora.orpo.reference import Reference, digest_of
from orpo_qlora.orpo.rows.packing import Needs
from orpo_qlora.orpo.rows.tokens import TokenizedPair

OBJECTIVES: dict[str, Callable[[TrainConfig], Objective]] = {
    "orpo": Orpo.of,
    "sft": Sft.of,
    "simpo": SimPO.of,
    "cpo": Cpo.of,
    "dpo": Dpo.of,
    "ipo": Ipo.of,
    "kto": Kto.of,
}
"""By the names in `methods.METHODS`."""
NO_REFERENCE = Reference()


@dataclass(frozen=True)
class Loss:
    """An objective and what it is a function of."""

    objective: Objective
    needs: LossNeeds
    reference: Reference = NO_REFERENCE
    mismatched: Mapping[str, TokenizedPair] = field(default_factory=dict)
    """For losses that need them: by a pair's digest, its prompt with another's responses."""

    def totals(self, pairs: Sequence[TokenizedPair]) -> StepTotals:
        """Return the pairs and NLL tokens of a step, by which its micro-steps divide."""
        tokens = sum(len(pair.chosen) for pair in pairs)
        if self.needs.nll_on == "sequence":
            # The first token of a sequence is given, not predicted.
            tokens += sum(len(pair.prompt) - 1 for pair in pairs)
        responses = sum(1 if pair.is_single else 2 for pair in pairs)
        return StepTotals(len(pairs), tokens, responses)

    def terms(
        self, pairs: Sequence[TokenizedPair], measured: PairSums, totals: StepTotals
    ) -> Terms:
        """Return one micro-step's share of a step's loss.

        Args:
            pairs: the B pairs of the micro-step.
            measured: their log-probs under the policy, in the same order.
            totals: of the whole step.
        """
        if self.needs.reference:
            sums = self.reference.sums(pairs, measured.sums)
            measured = replace(measured, reference=sums)
        return self.objective(measured, totals)


def mismatch(pairs: Sequence[TokenizedPair], max_length: int) -> dict[str, TokenizedPair]:
    """Return each pair's prompt with the responses of another, by the pair's digest.

    A single response counts as a pair that lacks the other one.

    In row order, each prompt gets the responses of the last pair before it, cyclically, that has
    another prompt; where all prompts are the same, those of the last pair. Responses are cut from
    the right where prompt and response exceed `max_length`. The order of `pairs` does not matter.
    """
    ordered = sorted(pairs, key=lambda pair: (pair.row, pair.prompt, pair.chosen, pair.rejected))
    partners: dict[str, TokenizedPair] = {}
    other: TokenizedPair | None = None
    for before, pair in zip((ordered[-1:] + ordered[:-1]) * 2, ordered * 2, strict=True):
        if before.prompt != pair.prompt or other is None:
            other = before
        room = max(1, max_length - len(pair.prompt))
        partners[digest_of(pair)] = replace(
            pair, chosen=other.chosen[:room], rejected=other.rejected[:room]
        )
    return partners


def loss_for(config: TrainConfig) -> Loss:
    """Return the loss that these settings ask for."""
    return Loss(OBJECTIVES[config.method](config), method_of(config).needs(config))


def needs_of(config: TrainConfig) -> Needs:
    """Return which log-probs a training with these settings measures."""
    needs = method_of(config).needs(config)
    return Needs(
        prompt=needs.nll_on == "sequence", rejected=needs.rejected or config.track_rejected
    )
