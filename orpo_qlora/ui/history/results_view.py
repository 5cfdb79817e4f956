"""Results and cost of compared runs as HTML tables, the varied settings as columns."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from orpo_qlora.config import setting_fields
from orpo_qlora.evaluation import comparison
from orpo_qlora.evaluation.comparison import Column, Comparison, Entry
from orpo_qlora.runs import present
from orpo_qlora.runs.differences import value_of
from orpo_qlora.ui.parts import cards

MOST_SETTINGS = 4
"""Differing settings shown as columns; all of them are in the table of settings."""


def draw_results(found: Comparison, places: Mapping[str, int]) -> str:
    """Return what was measured on held-out pairs and what training cost.

    Args:
        found: the runs.
        places: of the runs by id, which decide their strokes.
    """
    results = comparison.columns_of(found, comparison.RESULTS)
    costs = comparison.columns_of(found, comparison.COSTS)
    tables = _table("On held-out pairs, latest measurement", found, results, places)
    if costs:
        tables += _table("Cost of training, measured", found, costs, places)
    notes = "".join(f'<p class="quiet">{html.escape(note)}</p>' for note in comparison.NOTES)
    return f"{tables}{notes}{_warning(found)}"


def _warning(found: Comparison) -> str:
    if found.has_same_pairs:
        return ""
    return cards.text_card(
        "Not the same held-out pairs",
        ["These runs did not measure on the same pairs, so their results cannot be compared."],
    )


def _table(
    title: str, found: Comparison, columns: Sequence[Column], places: Mapping[str, int]
) -> str:
    fields, settings = setting_fields(), found.settings[:MOST_SETTINGS]
    heads = [*(str(fields[name].title) for name in settings), *(each.title for each in columns)]
    head = "".join(f"<th>{html.escape(text)}</th>" for text in ["Run", *heads])
    body = "".join(_row(found, columns, one, places.get(one.run.id, 0)) for one in found.entries)
    return scrolled(title, f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>")


def _row(found: Comparison, columns: Sequence[Column], one: Entry, place: int) -> str:
    config = one.run.config
    cells = [
        f"<td>{html.escape(present.setting_value(value_of(config, name)))}</td>"
        for name in found.settings[:MOST_SETTINGS]
    ]
    for column in columns:
        text = html.escape(column.text(one))
        is_bold = comparison.is_bold(found, column, one)
        cells.append(f"<td>{f'<strong>{text}</strong>' if is_bold else text}</td>")
    # The label of a sweep's run is in the columns beside it.
    name = one.run.id if found.is_sweep else html.escape(one.label)
    return f"<tr><th>{stroke(place)}{name}</th>{''.join(cells)}</tr>"


def stroke(place: int) -> str:
    """Return the line that stands for a run in the charts."""
    return f'<span class="run-stroke run-stroke-{place + 1}"></span>'


def scrolled(title: str, table: str) -> str:
    """Return a table that scrolls by itself where it is wider than the screen."""
    return (
        f'<h3 class="compare-title">{title}</h3><div class="scroll" role="region" tabindex="0" '
        f'aria-label="{title}"><table class="settings compared">{table}</table></div>'
    )
