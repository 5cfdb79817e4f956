"""A comparison of runs as HTML: legend, curves and differing settings."""

from __future__ import annotations

import html
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import urlencode

from orpo_qlora.charts import lines as line_charts
from orpo_qlora.charts import plots
from orpo_qlora.charts.plots import Curve, Plot, Quantity
from orpo_qlora.charts.view import ChartView
from orpo_qlora.config import setting_fields
from orpo_qlora.evaluation import comparison
from orpo_qlora.runs import present, store
from orpo_qlora.runs.curves.metrics import ACCURACY, Metrics
from orpo_qlora.runs.differences import varied_settings
from orpo_qlora.runs.process import sweep
from orpo_qlora.runs.store import Run
from orpo_qlora.ui.history.results_view import scrolled, stroke
from orpo_qlora.ui.parts import cards, form

MOST_RUNS = sweep.MOST_RUNS
MOST_CURVES = 6
"""As many as there are distinct colours and dashes, also for colour-blind readers."""
TOO_MANY = (
    f"Curves: the first {MOST_CURVES} runs. Select others in the list to see theirs; tables and "
    "points have all."
)
LOGPS = ("logps/chosen", "logps/rejected")
"""Drawn on one scale, so that the gap between them can be seen."""
Entry = tuple[str, str, str, str, tuple[float, float] | None]
"""A metric with title, unit, description of a healthy curve, and ends of its axis."""
PLOTS: tuple[Entry, ...] = (
    ("logps/chosen", "Log-prob of the chosen response", "nats per token", "rises", None),
    (
        "logps/rejected",
        "Log-prob of the rejected response",
        "nats per token, same scale",
        "stays below the chosen one's",
        None,
    ),
    ("rewards/margins", "Reward margin", "nats, in each method's own scale", "grows above 0", None),
    (ACCURACY, "Preference accuracy", "share of pairs", "rises", (0.0, 1.0)),
    ("log_odds_ratio", "Log odds ratio", "nats", "grows above 0", None),
    ("nll_loss", "NLL of the chosen response", "nats", "falls", None),
    ("or_loss", "Odds-ratio loss", "nats, without its factor λ; orpo only", "falls", None),
    ("loss", "Loss", "nats, comparable only with the same method and weights", "falls", None),
)


@dataclass(frozen=True)
class Compared:
    """A run with its label and colour."""

    run: Run
    label: str
    place: int
    metrics: Metrics

    @property
    def colour(self) -> str:
        """Its colour on the light and on the dark page; the dashes go with it (theme.css)."""
        return f"var(--run-{self.place + 1})" if self.has_curve else "var(--run-other)"

    @property
    def has_curve(self) -> bool:
        """Whether there is a colour left for it."""
        return self.place < MOST_CURVES


def line_up(runs: Sequence[Run], most_seconds: float = math.inf) -> list[Compared]:
    """Return runs with labels that say what differs.

    Args:
        runs: to be compared.
        most_seconds: longest time to read metrics; the rest is read by the next call.
    """
    labels = comparison.labels_of(runs, varied_settings(runs))
    deadline = time.monotonic() + most_seconds
    several = []
    for place, run in enumerate(runs):
        metrics = store.metrics_of(run.paths, max(0.0, deadline - time.monotonic()))
        several.append(Compared(run, labels[run.id], place, metrics))
    return several


def draw_legend(several: Sequence[Compared]) -> str:
    """Return the legend of all charts: each run with its status and a link."""
    entries = "".join(map(_legend_entry, several))
    note = f'<p class="quiet">{TOO_MANY}</p>' if len(several) > MOST_CURVES else ""
    return f'<ul class="legend compare-legend">{entries}</ul>{note}'


def _legend_entry(one: Compared) -> str:
    link = html.escape(urlencode({"tab": "runs", "run": one.run.id}))
    return (
        f"<li>{stroke(one.place)}"
        f'<a href="?{link}" data-run="{one.run.id}">{html.escape(one.label)}</a>'
        f"{cards.pill(one.run.state.status)}</li>"
    )


def draw_curves(several: Sequence[Compared], *, held_out: bool) -> str:
    """Return a chart for each quantity, every run a curve in it."""
    last_step = max(one.run.state.total_steps for one in several)
    drawn = [one for one in several if one.has_curve]
    charts = [_chart(drawn, entry, last_step, held_out=held_out) for entry in PLOTS]
    return f'<div class="plots compare-plots">{"".join(charts)}</div>'


def _chart(several: Sequence[Compared], entry: Entry, last_step: int, *, held_out: bool) -> str:
    name, title, unit, good, limits = entry
    if name in LOGPS:
        limits = _common_limits(several, held_out=held_out)
    shown = present.percent if name == ACCURACY else present.number
    plot = Plot(name.replace("/", "-"), title, unit, good, (), shown, limits)
    curves = [curve for one in several for curve in _curves(one, plot, name, held_out)]
    return f"<div>{line_charts.draw_chart(plot, curves, last_step)}</div>"


def _common_limits(several: Sequence[Compared], *, held_out: bool) -> tuple[float, float] | None:
    """Return a scale for the log-probs of both responses; None before the first measurement."""
    courses = [one.metrics.course(name, held_out=held_out) for one in several for name in LOGPS]
    values = [value for course in courses if len(course) for value in course.values.tolist()]
    if not values:
        return None
    low, high = min(values), max(values)
    margin = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return low - margin, high + margin


def _curves(one: Compared, plot: Plot, metric: str, held_out: bool) -> list[Curve]:
    mark: Literal["round", "square"] = "square" if one.place % 2 else "round"
    alone = replace(plot, quantities=(Quantity(metric, one.label, one.colour, mark=mark),))
    found = plots.curves_of(alone, one.metrics, one.run.config, ChartView())
    # Smoothed as on a run's page, without the raw values.
    drawn = [replace(curve, label=one.label, raw=None) for curve in found]
    return [curve for curve in drawn if curve.is_held_out == held_out]


def draw_differences(several: Sequence[Compared]) -> str:
    """Return the settings, data and versions that differ."""
    rows = [row for row in _decisions(several) if len(set(row[2])) > 1]
    if not rows:
        return cards.text_card("Settings", ["All settings, data and versions are the same."])
    head = "".join(f"<th>{html.escape(one.label)}</th>" for one in several)
    body = "".join(
        f"<tr><th>{html.escape(label)} <code>{html.escape(name)}</code></th>"
        f"{''.join(f'<td>{html.escape(value)}</td>' for value in values)}</tr>"
        for label, name, values in rows
    )
    return scrolled(
        "Settings that differ",
        f"<thead><tr><th>Setting</th>{head}</tr></thead><tbody>{body}</tbody>",
    )


def _decisions(several: Sequence[Compared]) -> list[tuple[str, str, list[str]]]:
    """Return label, name and values of every setting, data choice and version."""
    settings = [form.named_values(one.run.config) for one in several]
    rows = [
        (str(info.title), name, [present.setting_value(values[name]) for values in settings])
        for name, info in setting_fields().items()
        if name != "name"
    ]
    reports = [one.run.report for one in several]
    rows.append(("Data", "file", [f"{one.source} ({one.sha256[:8]})" for one in reports]))
    fixes = [", ".join(one.choices.fixes) or "–" for one in reports]
    rows.append(("Fixes", "data", fixes))
    rows.append(("Pairs", "data", [f"{one.pairs:,}" for one in reports]))
    versions = [_versions(one.run) for one in several]
    names = dict.fromkeys(name for known in versions for name in known)
    rows += [("Version", name, [known.get(name, "–") for known in versions]) for name in names]
    return rows


def _versions(run: Run) -> dict[str, str]:
    found = store.about_run(run.paths).get("versions")
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}
