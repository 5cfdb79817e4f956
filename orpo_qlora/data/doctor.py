"""Which rows cannot teach a preference, and why. Floor 1; no torch."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from orpo_qlora.data.columns import ColumnMapping
from orpo_qlora.data.read import Row, Table
from orpo_qlora.data.report import Drop

REASONS = {
    "empty-prompt": "the prompt is empty",
    "empty-chosen": "the chosen answer is empty",
    "empty-rejected": "the rejected answer is empty",
    "identical": "chosen and rejected are the same",
}
"""Why a row becomes no pair, by stable id. The first reason that holds is the row's only one."""


@dataclass(frozen=True)
class Examination:
    """Every row of a table on exactly one side: usable, or in the rows of one drop."""

    usable: tuple[Row, ...]
    drops: tuple[Drop, ...]
    """In the order of `REASONS`, without empty ones."""


def examine(table: Table, mapping: ColumnMapping) -> Examination:
    """Sort the rows of a table into usable ones and those left out, by reason."""
    prompt, chosen, rejected = (
        table.columns.index(name) for name in (mapping.prompt, mapping.chosen, mapping.rejected)
    )
    usable = []
    dropped: defaultdict[str, list[int]] = defaultdict(list)
    for row in table.rows:
        reason = fault_of(row.cells[prompt], row.cells[chosen], row.cells[rejected])
        if reason:
            dropped[reason].append(row.number)
        else:
            usable.append(row)
    drops = tuple(
        Drop(reason=reason, label=label, rows=tuple(dropped[reason]))
        for reason, label in REASONS.items()
        if reason in dropped
    )
    return Examination(tuple(usable), drops)


def fault_of(prompt: str, chosen: str, rejected: str) -> str:
    """Return the reason why these texts are no preference, empty if they are one.

    An empty answer has no tokens, so its mean log-prob would be NaN and one row would ruin the
    run; two equal answers have odds ratio 1 whatever the policy says.
    """
    for name, text in (("prompt", prompt), ("chosen", chosen), ("rejected", rejected)):
        if not text.strip():
            return f"empty-{name}"
    return "identical" if chosen.strip() == rejected.strip() else ""
