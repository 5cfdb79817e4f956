"""Blocks of HTML that the tabs share; all text is escaped here."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orpo_qlora import methods
from orpo_qlora.charts import plots
from orpo_qlora.runs import present
from orpo_qlora.runs.curves.metrics import Metrics
from orpo_qlora.runs.state import RunState
from orpo_qlora.runs.store import Run
from orpo_qlora.ui.parts.controls import named_on_page


@dataclass(frozen=True)
class Tile:
    """One headline number: its value before training and now."""

    title: str
    before: str
    now: str
    good: str
    """What a good value looks like, in a few words."""


def error_card(message: str, *, hint: str = "", where: str = "", more: str = "") -> str:
    """Return an error: what is wrong, what to do, and where; `more` is HTML below it."""
    parts = [f'<p class="card-title">{html.escape(named_on_page(message))}</p>']
    if hint:
        parts.append(f'<p class="card-hint">{html.escape(named_on_page(hint))}</p>')
    if where and where not in message:
        parts.append(f'<p class="card-where">{html.escape(where)}</p>')
    return f'<div class="card card-error" role="alert">{"".join(parts)}{more}</div>'


def is_error(card: str) -> bool:
    """Whether a card as the page shows it is an error."""
    return card.startswith('<div class="card card-error"')


def hint_of(card: str) -> str:
    """Return the hint of an error card as plain text, empty if it has none."""
    found = re.search(r'<p class="card-hint">(.*?)</p>', card, re.DOTALL)
    return html.unescape(found[1]) if found and is_error(card) else ""


def empty_card(title: str, text: str) -> str:
    """Return a placeholder for a view without content, which says what to do next."""
    return (
        f'<div class="card card-empty"><p class="card-title">{html.escape(title)}</p>'
        f"<p>{html.escape(text)}</p></div>"
    )


def reason(text: str) -> str:
    """Return a short status line, such as why the button beside it is disabled."""
    return f'<p class="reason" role="status">{html.escape(text)}</p>'


def estimate(sentence: str, changes: Sequence[str], details: Sequence[str], *, fits: bool) -> str:
    """Return a run's estimate, what to change if it does not fit, and how it was measured."""
    advice = "".join(f"<li>{html.escape(change)}</li>" for change in changes)
    small = "".join(f"<p>{html.escape(detail)}</p>" for detail in details)
    return (
        f'<div class="estimate{"" if fits else " estimate-unfit"}" role="status">'
        f"<p>{html.escape(sentence)}</p>"
        f"{f'<ul>{advice}</ul>' if advice else ''}"
        f"{f'<details><summary>How it was measured</summary>{small}</details>' if small else ''}"
        "</div>"
    )


def busy(text: str) -> str:
    """Return a progress line for work under way."""
    return f'<p class="busy" role="status">{html.escape(text)}</p>'


def note(text: str) -> str:
    """Return a quiet status line."""
    return f'<p class="quiet" role="status">{html.escape(text[:1].upper() + text[1:])}</p>'


def heading(title: str, text: str) -> str:
    """Return a section's heading with one line about its purpose."""
    return f'<div class="opening"><h2>{html.escape(title)}</h2><p>{html.escape(text)}</p></div>'


def text_card(title: str, sentences: Sequence[str], more: str = "") -> str:
    """Return a card with a title and a few sentences; `more` is HTML below them."""
    lines = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in sentences)
    return f'<div class="card"><p class="card-title">{html.escape(title)}</p>{lines}{more}</div>'


def waiting_list(titles: Iterable[str]) -> str:
    """Return the queue, next run first; empty if no run is queued."""
    items = "".join(f"<li>{html.escape(title)}</li>" for title in titles)
    if not items:
        return ""
    return f'<div class="card"><p class="card-title">Queue</p><ol class="facts">{items}</ol></div>'


def run_card(run: Run, tiles: Iterable[Tile]) -> str:
    """Return a run's title, status, progress, speed and headline numbers."""
    state = run.state
    line = present.progress_sentence(state) if run.is_active else present.ended_sentence(state)
    meaning = present.STATUS_MEANINGS[state.status]
    return (
        '<section class="card run-card">'
        f"<header><h2>{html.escape(run.title)}</h2>{pill(state.status)}</header>"
        f'<p class="run-about">{html.escape(_about(run))}</p>'
        f"{_progress_bar(state)}"
        f'<p class="run-line">{html.escape(line or meaning)}</p>'
        f"{'' if run.is_active else f'<p>{html.escape(meaning)}</p>'}"
        f'<div class="tiles">{"".join(_tile(tile) for tile in tiles)}</div>'
        "</section>"
    )


def _about(run: Run) -> str:
    parts = [present.model_title(run.config.model), run.report.source]
    parts += [methods.method_with_strength(run.config), run.id]
    return " · ".join(parts)


def pill(status: str) -> str:
    """Return a status as a coloured label."""
    return f'<span class="pill pill-{status}">{status}</span>'


def _progress_bar(state: RunState) -> str:
    done = present.progress_percent(state)
    limits = 'role="progressbar" aria-label="Training progress" aria-valuemin="0"'
    if done is None:
        if state.status not in {"queued", "starting", "running"}:
            return ""
        # Without aria-valuenow, screen readers announce the progress as indeterminate.
        return f'<div class="bar bar-unknown" {limits} aria-valuemax="100"><span></span></div>'
    text = f"{done} per cent, step {state.step} of {state.total_steps}"
    return (
        f'<div class="bar bar-{state.status}" {limits} aria-valuemax="100" aria-valuenow="{done}" '
        f'aria-valuetext="{text}"><span style="width: {done}%"></span></div>'
    )


def _tile(tile: Tile) -> str:
    before = (
        f'<span class="tile-before">{html.escape(tile.before)} →</span> ' if tile.before else ""
    )
    return (
        f'<div class="tile"><p class="tile-title">{html.escape(tile.title)}</p>'
        f'<p class="tile-now">{before if tile.before else ""}{html.escape(tile.now)}</p>'
        f'<p class="tile-good">{html.escape(tile.good)}</p></div>'
    )


def settings_table(rows: Iterable[tuple[str, str, str]]) -> str:
    """Return a table of settings from rows of label, name and value."""
    cells = "".join(
        f"<tr><td>{html.escape(label)}</td><td><code>{html.escape(name)}</code></td>"
        f"<td>{html.escape(value)}</td></tr>"
        for label, name, value in rows
    )
    head = "<thead><tr><th>Setting</th><th>Name</th><th>Value</th></tr></thead>"
    return f'<table class="settings">{head}<tbody>{cells}</tbody></table>'


def notes_list(notes: Sequence[str]) -> str:
    """Return the worker's notes as a list."""
    items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    return f'<ul class="facts">{items}</ul>' if items else ""


def headline_tiles(metrics: Metrics) -> list[Tile]:
    """Return the headline numbers, measured on held-out pairs if there are any."""
    tiles = []
    for plot in plots.PLOTS:
        quantity = plot.quantities[0]
        held_out = metrics.course(quantity.metric, held_out=True)
        course = held_out if len(held_out) else metrics.course(quantity.metric)
        if plot.name in plots.HEADLINES and len(course):
            side = "held-out" if len(held_out) else "training"
            title = f"{quantity.label[:1].upper()}{quantity.label[1:]}, {side}"
            first = metrics.before(quantity.metric) if len(held_out) else None
            first = course.values[0] if first is None else first
            before = plot.format(first) if len(course) > 1 else ""
            tiles.append(Tile(title, before, plot.format(course.values[-1]), plot.good))
    return tiles
