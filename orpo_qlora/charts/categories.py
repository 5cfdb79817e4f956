"""Bars by category with their intervals, one bar a model. As HTML, readable without the picture."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orpo_qlora.charts.lines import SIZE
from orpo_qlora.charts.rewards import COLOURS

BAR = 16
"""Height of a bar in pixels."""


@dataclass(frozen=True)
class Bar:
    """A value with its interval and its text."""

    value: float
    low: float
    high: float
    text: str


@dataclass(frozen=True)
class CategoryChart:
    """One measure of several models in several categories."""

    title: str
    note: str
    rows: Mapping[str, Mapping[str, Bar]]
    """Bars by category and model."""
    systems: Sequence[str]


def draw_categories(chart: CategoryChart) -> str:
    """Return the chart as a table with a bar in every row."""
    bars = [bar for row in chart.rows.values() for bar in row.values()]
    low = min(0.0, *(bar.low for bar in bars))
    high = max(*(bar.high for bar in bars), low + 1e-9)
    body = "".join(
        _row(category if place == 0 else "", name, row[name], colour, (low, high))
        for category, row in chart.rows.items()
        for place, (name, colour) in enumerate(_coloured(chart.systems, row))
    )
    return (
        f'<figure class="chart card"><figcaption class="chart-title">{html.escape(chart.title)} '
        f"<small>{html.escape(chart.note)}</small></figcaption>"
        f'<table class="settings category-bars"><tbody>{body}</tbody></table></figure>'
    )


def _coloured(systems: Sequence[str], row: Mapping[str, Bar]) -> list[tuple[str, str]]:
    return [
        (name, COLOURS[place % len(COLOURS)]) for place, name in enumerate(systems) if name in row
    ]


def _row(category: str, name: str, bar: Bar, colour: str, axis: tuple[float, float]) -> str:
    def place(value: float) -> float:
        return SIZE * (value - axis[0]) / (axis[1] - axis[0])

    start, end = sorted((place(0.0), place(bar.value)))
    middle = BAR / 2
    picture = (
        f'<svg viewBox="0 0 {SIZE} {BAR}" preserveAspectRatio="none" aria-hidden="true" '
        f'style="width:100%;min-width:8rem;height:{BAR}px">'
        f'<rect x="{start:.1f}" y="2" width="{end - start:.1f}" height="{BAR - 4}" '
        f'fill="{colour}" fill-opacity="0.55"/>'
        f'<path d="M{place(bar.low):.1f} {middle}H{place(bar.high):.1f}" stroke="{colour}" '
        'stroke-width="3"/></svg>'
    )
    cells = (html.escape(category), html.escape(name), picture, html.escape(bar.text))
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
