"""The table of runs as HTML, and the script that reports clicks in it.

Text from users and files is escaped here.
"""

from __future__ import annotations

import html
from collections.abc import Collection, Sequence
from urllib.parse import urlencode

from orpo_qlora import methods
from orpo_qlora.data.wording import plural
from orpo_qlora.runs import history, present
from orpo_qlora.runs.curves.metrics import ACCURACY
from orpo_qlora.runs.curves.results import Measured
from orpo_qlora.runs.history import Unreadable
from orpo_qlora.runs.store import Run
from orpo_qlora.ui.parts import cards

PAGE_ROWS = 25
NO_VALUE = "–"

# A click with a modifier key opens the link in another tab. What was clicked is stored for the
# script of the event.
PRESSED = """
const report = (name, value) => { window.orpoPressed = value; trigger(name); };
element.addEventListener('click', (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) { return; }
  if (event.target.closest('label, input')) { return; }
  const part = event.target.closest('[data-page], [data-tag], [data-run]');
  if (!part) { return; }
  event.preventDefault();
  if (part.dataset.page) { report('submit', part.dataset.page); }
  else if (part.dataset.tag) { report('click', part.dataset.tag); }
  else { report('select', part.dataset.run); }
});
const boxes = () => [...element.querySelectorAll('input[data-run]')];
const chosen = () => new Set((window.orpoChosen || '').split(',').filter(Boolean));
element.addEventListener('change', (event) => {
  const ids = chosen();
  for (const box of event.target.matches('[data-every]') ? boxes() : [event.target]) {
    box.checked = event.target.checked;
    ids[box.checked ? 'add' : 'delete'](box.dataset.run);
  }
  window.orpoChosen = [...ids].join(',');
  trigger('input');
});
// A table rendered while a box was being ticked does not have it.
watch('value', () => {
  const ids = chosen();
  for (const box of boxes()) { box.checked = ids.has(box.dataset.run); }
});
"""
TAKE = "() => window.orpoPressed"
"""Script of an event that takes what was clicked."""
FOUND = """(...values) => {
  const before = window.orpoFound ?? JSON.parse(window.orpoAddress).find ?? '';
  window.orpoFound = values[0];
  if (values[0] !== before) { values[values.length - 2] = ''; }
  return values;
}"""
"""Script that returns to the first page for another search text, but not after a reload."""
CHOSEN = "() => window.orpoChosen"
"""Script of an event that takes the selection, on all pages of the list."""
FORGET = "(ids) => { if (!ids) { window.orpoChosen = ''; } }"
"""Script that clears the selection."""

HEAD = (
    '<th class="history-tick"><label><input type="checkbox" data-every '
    'aria-label="Select all runs of this page"></label></th>'
    "<th>Run</th><th>Status</th><th>Base model</th><th>Data</th><th>Objective</th>"
    '<th>Accuracy</th><th>Margin</th><th>Loss</th><th title="When it was created">Date</th>'
)


def draw_table(runs: Sequence[Run], page: int, chosen: Collection[str]) -> str:
    """Return one page of a list of runs, with links to the others.

    Args:
        runs: all that match, in order.
        page: which page, from 0; one past the end shows the last.
        chosen: ids of the selected runs.
    """
    pages = page_count(runs)
    page = max(0, min(page, pages - 1))
    shown = runs[page * PAGE_ROWS : (page + 1) * PAGE_ROWS]
    rows = "".join(_row(run, is_chosen=run.id in chosen) for run in shown)
    return (
        '<table class="history" aria-label="Runs">'
        f"<thead><tr>{HEAD}</tr></thead><tbody>{rows}</tbody></table>"
        f"{_pager(page, pages, len(runs))}"
    )


def page_count(runs: Sequence[Run]) -> int:
    """Return the number of pages, at least one."""
    return max(1, -(-len(runs) // PAGE_ROWS))


def _pager(page: int, pages: int, count: int) -> str:
    first, last = page * PAGE_ROWS + 1, min(count, (page + 1) * PAGE_ROWS)
    text = f"{first}–{last} of {plural(count, 'run')}" if pages > 1 else plural(count, "run")
    buttons = (
        ""
        if pages == 1
        else _turn("Previous page", page - 1, pages) + _turn("Next page", page + 1, pages)
    )
    return f'<div class="pager"><span role="status">{text}</span>{buttons}</div>'


def _turn(label: str, page: int, pages: int) -> str:
    off = "" if 0 <= page < pages else " disabled"
    return f'<button class="quiet-button" data-page="{page}"{off}>{label}</button>'


def _row(run: Run, *, is_chosen: bool) -> str:
    title = html.escape(run.title)
    tick = (
        f'<label><input type="checkbox" data-run="{run.id}"{" checked" if is_chosen else ""} '
        f'aria-label="Select {title}"></label>'
    )
    link = urlencode({"tab": "runs", "run": run.id})
    name = (
        f'<a href="?{html.escape(link)}" data-run="{run.id}">{title}</a>'
        f"{tag_chips(run.label.tags)}<small>{run.id}</small>"
    )
    data = f"{html.escape(run.report.source)}<small>{run.report.count_text(sides=False)}</small>"
    parts = (
        ("", tick, "history-tick"),
        ("Run", name, "history-name"),
        ("Status", _status(run), ""),
        ("Base model", html.escape(present.model_title(run.config.model)), ""),
        ("Data", data, ""),
        ("Objective", methods.short_name(run.config), "number"),
        *_measured_parts(run),
        ("Date", html.escape(present.moment(run.state.created_at)), "history-date"),
    )
    cells = "".join(_cell(title, content, kind) for title, content, kind in parts)
    return f'<tr data-run="{run.id}">{cells}</tr>'


def _measured_parts(run: Run) -> tuple[tuple[str, str, str], ...]:
    results = history.results(run)
    loss = _number(results.held_out, "loss")
    if loss == NO_VALUE and results.training:
        # Runs without held-out pairs have a training loss only.
        loss = f"{_number(results.training, 'loss')}<small>training</small>"
    accuracy = results.held_out.value(ACCURACY) if results.held_out else None
    return (
        ("Accuracy", NO_VALUE if accuracy is None else present.percent(accuracy), "number"),
        ("Margin", _number(results.held_out, "rewards/margins"), "number"),
        ("Loss", loss, "number"),
    )


def _number(measured: Measured | None, name: str) -> str:
    value = measured.value(name) if measured else None
    return NO_VALUE if value is None else present.number(value)


def _status(run: Run) -> str:
    state = run.state
    step = f"<small>step {state.step:,} of {state.total_steps:,}</small>"
    progress = step if state.total_steps and state.status != "finished" else ""
    return f"{cards.pill(state.status)}{progress}"


def _cell(title: str, content: str, kind: str) -> str:
    # The title is shown instead of the table's head on a narrow screen.
    return f'<td class="{kind}" data-title="{title}"><div>{content}</div></td>'


def tag_chips(tags: Sequence[str]) -> str:
    """Return tags as buttons that filter the list by tag."""
    chips = "".join(
        f'<button class="tag" data-tag="{html.escape(tag)}" '
        f'title="Show runs with this tag">{html.escape(tag)}</button>'
        for tag in tags
    )
    return f'<span class="tags">{chips}</span>' if chips else ""


def unreadable_note(unreadable: Sequence[Unreadable]) -> str:
    """Return which run folders cannot be read, and why."""
    if not unreadable:
        return ""
    reasons = [f"{one.id}: {one.reason}" for one in unreadable]
    title = f"{plural(len(unreadable), 'run folder')} cannot be read by this version"
    return cards.text_card(title, reasons)
