"""The figures of an evaluation as one table: measures down, models across. Floor 5; no torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass

from orpo_qlora.evaluation.report_card import in_percent
from orpo_qlora.evaluation.suite.figures import Figure, best_systems, measure_of
from orpo_qlora.evaluation.suite.results import SuiteResults
from orpo_qlora.runs.curves.intervals import Interval

CSV_COLUMNS = (
    *("part", "measure", "system", "opponent", "category"),
    *("value", "low", "high", "count"),
)


@dataclass(frozen=True)
class TableRow:
    """One measure, perhaps of one category, with its text for each model."""

    measure: str
    title: str
    opponent: str
    category: str
    cells: Mapping[str, str]
    """Text by name of the model; models without the figure are left out."""
    best: str
    """The model whose interval is beyond those of all others; empty without one."""


def rows_of(results: SuiteResults) -> list[TableRow]:
    """Return the rows over all prompts, then those of each category."""
    figures = results.figures
    best = best_systems(figures)
    keys = list(dict.fromkeys((one.measure, one.opponent, one.category) for one in figures))
    ordered = [key for key in keys if not key[2]] + [key for key in keys if key[2]]
    return [
        TableRow(
            measure=measure,
            title=_title(measure, opponent, category),
            opponent=opponent,
            category=category,
            cells={
                one.system: text_of(one)
                for one in figures
                if (one.measure, one.opponent, one.category) == (measure, opponent, category)
            },
            best=best.get((measure, opponent, category), ""),
        )
        for measure, opponent, category in ordered
    ]


def _title(measure: str, opponent: str, category: str) -> str:
    against = f" against {opponent}" if opponent else ""
    return f"{measure_of(measure).title}{against}{f', {category}' if category else ''}"


def text_of(figure: Figure) -> str:
    """Return a figure with its interval: “57 % (48–66 %)” or “0.412 (0.38 to 0.44)”."""
    if measure_of(figure.measure).kind in {"share", "wins"}:
        return in_percent(figure.interval)
    return in_numbers(figure.interval)


def in_numbers(interval: Interval) -> str:
    """Return a mean with its interval in three digits."""
    return f"{interval.value:.3g} ({interval.low:.3g} to {interval.high:.3g})"


def to_csv(results: SuiteResults) -> str:
    """Return every figure as a row."""
    memory = io.StringIO()
    writer = csv.writer(memory, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for part in results.parts:
        for one in part.figures:
            about = [part.part, one.measure, one.system, one.opponent, one.category]
            numbers = [one.interval.value, one.interval.low, one.interval.high]
            writer.writerow(
                [*map(_safe, about), *(f"{number:.6g}" for number in numbers), one.count]
            )
    return memory.getvalue()


def _safe(text: str) -> str:
    """Return a text that spreadsheets do not take for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
