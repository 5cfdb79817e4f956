"""A comparison of runs as HTML: curves, differing settings, held-out results."""

from __future__ import annotations

import html
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import urlencode

from orpo_qlora import storage
from orpo_qlora.charts import lines as line_charts
from orpo_qlora.charts import plots
from orpo_qlora.charts.plots import Curve, Plot, Quantity
from orpo_qlora.charts.view import ChartView
from orpo_qlora.config import setting_fields
from orpo_qlora.runs import history, present, store
from orpo_qlora.runs.file_cache import FileMemory
from orpo_qlora.runs.intervals import wilson
from orpo_qlora.runs.metrics import Metrics
from orpo_qlora.runs.results import Measured
from orpo_qlora.runs.store import Run
from orpo_qlora.ui.parts import cards, form

MOST_RUNS = 6
"""As many as there are distinct colours and dashes, also for colour-blind readers."""
PLOTS = (
    ("nll_loss", "NLL of the chosen response", "nats", "falls", None),
    ("rewards/accuracies", "Preference accuracy", "share of pairs", "rises", (0.0, 1.0)),
    ("log_odds_ratio", "Log odds ratio", "nats", "grows above 0", None),
    ("logps/chosen", "Log-prob of the chosen response", "nats per token", "rises", None),
    ("rewards/margins", "Reward margin", "nats, grows with λ", "grows above 0", None),
    ("loss", "Loss", "nats, not comparable between different λ", "falls", None),
)
COLUMNS = (
    *("Run", "λ", "Step", "Accuracy (95 % interval)", "Pairs", "NLL", "Log odds ratio"),
    *("Chosen log-prob", "Log-prob gap", "Margin", "Loss"),
)
INTERVAL_NOTE = (
    "Accuracy: share of held-out pairs whose chosen response is more likely, with its Wilson score "
    "interval. Gap: chosen minus rejected log-prob, which unlike the margin has no factor λ."
)
_hash_of = FileMemory(storage.sha256_of)


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
        return f"var(--run-{self.place + 1})"

    @property
    def held_out(self) -> Measured | None:
        """Its latest measurement on held-out pairs."""
        return history.results(self.run).held_out


def line_up(runs: Sequence[Run], most_seconds: float = math.inf) -> list[Compared]:
    """Return runs with labels; runs of the same name have their id in the label.

    Args:
        runs: to be compared.
        most_seconds: longest time to read metrics; the rest is read by the next call.
    """
    titles = Counter(run.title for run in runs)
    deadline = time.monotonic() + most_seconds
    several = []
    for place, run in enumerate(runs):
        label = run.title if titles[run.title] == 1 else f"{run.title} ({run.id})"
        metrics = store.metrics_of(run.paths, max(0.0, deadline - time.monotonic()))
        several.append(Compared(run, label, place, metrics))
    return several


def draw_legend(several: Sequence[Compared]) -> str:
    """Return the legend of all charts: each run with its status and a link."""
    return f'<ul class="legend compare-legend">{"".join(map(_legend_entry, several))}</ul>'


def _legend_entry(one: Compared) -> str:
    link = html.escape(urlencode({"tab": "runs", "run": one.run.id}))
    return (
        f'<li><span class="run-stroke run-stroke-{one.place + 1}"></span>'
        f'<a href="?{link}" data-run="{one.run.id}">{html.escape(one.label)}</a>'
        f"{cards.pill(one.run.state.status)}</li>"
    )


def draw_curves(several: Sequence[Compared], *, held_out: bool) -> str:
    """Return a chart for each quantity, every run a curve in it."""
    last_step = max(one.run.state.total_steps for one in several)
    drawn = []
    for name, title, unit, good, limits in PLOTS:
        is_share = limits is not None
        shown = present.percent if is_share else present.number
        plot = Plot(name.replace("/", "-"), title, unit, good, (), shown, limits)
        curves = [curve for one in several for curve in _curves(one, plot, name, held_out)]
        drawn.append(f"<div>{line_charts.draw_chart(plot, curves, last_step)}</div>")
    return f'<div class="plots compare-plots">{"".join(drawn)}</div>'


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
    return _scrolled(
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


def draw_held_out(several: Sequence[Compared]) -> str:
    """Return the held-out results with their intervals."""
    head = "".join(f"<th>{title}</th>" for title in COLUMNS)
    ordered = sorted(several, key=lambda one: one.run.config.lambda_)
    body = "".join(_held_out_row(one) for one in ordered)
    table = _scrolled(
        "On held-out pairs, latest measurement",
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>",
    )
    warning = (
        ""
        if _same_pairs(several)
        else cards.text_card(
            "Not the same held-out pairs",
            ["These runs did not measure on the same pairs, so their results cannot be compared."],
        )
    )
    return f'{table}<p class="quiet">{INTERVAL_NOTE}</p>{warning}'


def _same_pairs(several: Sequence[Compared]) -> bool:
    return len({_hash_of.of(one.run.paths.held_out) for one in several}) == 1


def _held_out_row(one: Compared) -> str:
    found = one.held_out
    name = (
        f'<th><span class="run-stroke run-stroke-{one.place + 1}"></span>'
        f"{html.escape(one.label)}</th>"
    )
    lambda_ = f"<td>{present.setting_value(one.run.config.lambda_)}</td>"
    if found is None:
        return f'<tr>{name}{lambda_}<td colspan="{len(COLUMNS) - 2}">nothing measured yet</td></tr>'
    numbers = [
        found.value("nll_loss"), found.value("log_odds_ratio"), found.value("logps/chosen"),
        found.gap, found.value("rewards/margins"), found.value("loss"),
    ]  # fmt: skip
    cells = [
        f"{found.step:,}",
        accuracy_text(found),
        present.number(found.value("pairs") or 0),
        *("–" if value is None else present.number(value) for value in numbers),
    ]
    return f"<tr>{name}{lambda_}{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def accuracy_text(found: Measured) -> str:
    """Return the accuracy with its interval."""
    accuracy = found.value("rewards/accuracies")
    if accuracy is None:
        return "–"
    sure = wilson(accuracy, found.value("pairs") or 0)
    return f"{present.percent(accuracy)} ({sure.low * 100:.0f}–{sure.high * 100:.0f} %)"


def _scrolled(title: str, table: str) -> str:
    """Return a table that scrolls by itself where it is wider than the screen."""
    return (
        f'<h3 class="compare-title">{title}</h3><div class="scroll" role="region" tabindex="0" '
        f'aria-label="{title}"><table class="settings compared">{table}</table></div>'
    )
