"""Whether a method can train on the data, checked before a run is created. Floor 3; no torch."""

from __future__ import annotations

from collections.abc import Iterable

from orpo_qlora.config import TrainConfig
from orpo_qlora.data.pairs import PreferencePair
from orpo_qlora.data.summary import DataSummary
from orpo_qlora.data.wording import listed
from orpo_qlora.errors import InputError
from orpo_qlora.methods import METHODS, method_of

BALANCED = (1.0, 1.33)
"""Weighted chosen responses for one weighted rejected one, equation 8 of arXiv 2402.01306."""


def check_data(
    config: TrainConfig, report: DataSummary, pairs: Iterable[PreferencePair] = ()
) -> None:
    """Check that a method can train on the data.

    Args:
        config: the method.
        report: of the data.
        pairs: those of the run, to check their prompts too; none to check the summary alone.

    Raises:
        InputError: it needs pairs, both labels, or several prompts.
    """
    method = method_of(config)
    if report.singles and not method.takes_single:
        raise _needs_pairs(config, report)
    chosen, rejected = _sides(report)
    if report.singles and not (chosen and rejected):
        side = "chosen" if chosen else "rejected"
        raise InputError(
            f"All {report.singles:,} responses of {report.source} are {side}; {method.title} needs "
            "both chosen and rejected ones.",
            where=report.source,
            hint=f"Add {'rejected' if chosen else 'chosen'} responses.",
        )
    if method.needs(config).mismatched:
        _refuse_one_prompt(config, report, pairs)


def _sides(report: DataSummary) -> tuple[int, int]:
    """Return how many chosen and how many rejected responses there are."""
    pairs = report.pairs - report.singles
    return pairs + report.single_chosen, pairs + report.single_rejected


def _needs_pairs(config: TrainConfig, report: DataSummary) -> InputError:
    taking = listed([name for name, method in METHODS.items() if method.takes_single])
    fact = (
        f"{report.source} has {report.count_text(sides=False)} with a label, and the method "
        f"{config.method} needs pairs of responses."
    )
    other = (
        "or read labelled rows as pairs: --labelled pairs, or “Labelled rows” on the Data tab"
        if report.can_be_paired
        else "or add a response with the opposite label to each prompt"
    )
    return InputError(fact, where=report.source, hint=f"Choose the method {taking}, {other}.")


def _refuse_one_prompt(
    config: TrainConfig, report: DataSummary, pairs: Iterable[PreferencePair]
) -> None:
    """Refuse data in which every response answers the same prompt."""
    found = iter(pairs)
    first = next(found, None)
    if first is None or any(pair.conversation != first.conversation for pair in found):
        return
    raise InputError(
        f"Every {report.noun} of {report.source} has the same prompt; the KL term of "
        f"{method_of(config).title} is estimated with responses to other prompts.",
        where=report.source,
        hint="Add pairs with other prompts, or set kto_loss to apo_zero_unpaired.",
    )


def balance_sentence(config: TrainConfig, report: DataSummary) -> str:
    """Return a sentence on weights that balance chosen and rejected responses; empty if they do."""
    chosen, rejected = _sides(report)
    if not method_of(config).takes_single or chosen == rejected or not (chosen and rejected):
        return ""
    low, high = (factor * rejected * config.undesirable_weight / chosen for factor in BALANCED)
    if round(low, 2) <= config.desirable_weight <= round(high, 2):
        return ""
    return (
        f"{chosen:,} chosen and {rejected:,} rejected responses: a weight of chosen "
        f"(desirable_weight) from {low:.2f} to {high:.2f} would balance them."
    )
