"""A run as one self-contained HTML page: no scripts, nothing fetched."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from orpo_qlora import storage
from orpo_qlora.charts import lines as line_charts
from orpo_qlora.charts import plots, style
from orpo_qlora.data.wording import plural
from orpo_qlora.errors import InputError
from orpo_qlora.evaluation import report_card
from orpo_qlora.export.origin import origin_of
from orpo_qlora.export.reports import report_card_html
from orpo_qlora.export.reports.markdown_report import (
    NOT_EVALUATED,
    changed_settings,
    markdown_report,
)
from orpo_qlora.export.reports.passport import loss_passport
from orpo_qlora.runs import store
from orpo_qlora.runs.store import Run

STYLES = [*style.STYLES, Path(__file__).with_name("html_report.css")]
"""Those of the page, then the report's own."""
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_POINTER_VALUES = re.compile(r' data-curves="[^"]*"')


def html_report(run: Run) -> str:
    """Return a run as one HTML document; it holds the texts of pairs that changed sides."""
    origin, card = origin_of(run), report_card.read_card(run)
    passport = [(fact.label, fact.value) for fact in loss_passport(run, origin)]
    about = (
        f"Run {run.id}, {run.state.status} after {run.state.step:,} of "
        f"{plural(run.state.total_steps, 'step')}; base model {origin.sentence}."
    )
    shown = (
        report_card_html.draw_report(report_card_html.report_of(run, card))
        if card
        else _line(f"{NOT_EVALUATED} {run.id}")
    )
    parts = [
        f"<h1>{html.escape(run.title)}</h1>{_line(about)}",
        f"<h2>Report card</h2>{shown}",
        f'<h2>Curves</h2><div class="plots">{_curves(run)}</div>',
        f"<h2>Loss passport</h2>{_table(('What', 'How'), passport)}",
        f"<h2>Data</h2>{_list(run.report.sentences())}"
        f"{''.join(_line(f'{what}: {value}') for what, value in run.report.hashes())}",
        "<h2>Settings that are not the default</h2>"
        f"{_table(('Setting', 'Value', 'Default'), changed_settings(run))}",
        f"<h2>Notes of the worker</h2>{_list(run.state.notes)}",
    ]
    styles = "\n".join(path.read_text(encoding="utf-8") for path in STYLES)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{html.escape(run.title)} – orpo-qlora</title><style>{styles}</style></head>"
        f'<body><main class="prose">{"".join(parts)}</main></body></html>\n'
    )


def write_html(run: Run, path: Path) -> None:
    """Write the report as HTML."""
    storage.write_whole(path, html_report(run))


def write_markdown(run: Run, path: Path) -> None:
    """Write the report as Markdown."""
    storage.write_whole(path, markdown_report(run))


def _curves(run: Run) -> str:
    metrics = store.metrics_of(run.paths)
    drawn = "".join(
        line_charts.draw_chart(
            plot, plots.curves_of(plot, metrics, run.config), run.state.total_steps
        )
        for plot in plots.PLOTS
    )
    return _POINTER_VALUES.sub("", drawn)  # only the page's script reads them


def _line(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def _list(lines: Iterable[str]) -> str:
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f'<ul class="facts">{items}</ul>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    titles = "".join(f"<th>{html.escape(title)}</th>" for title in head)
    cells = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return f'<table class="settings"><thead><tr>{titles}</tr></thead><tbody>{cells}</tbody></table>'


WRITERS = {".html": write_html, ".md": write_markdown}


def write_report(run: Run, path: Path) -> None:
    """Write the report of a run; the file extension, .html or .md, decides the format.

    Raises:
        InputError: the ending is neither, or the file cannot be written.
    """
    writer = WRITERS.get(path.suffix.casefold())
    if writer is None:
        raise InputError(f"{path.name} is neither .html nor .md.", hint="End it with either.")
    with storage.write_errors(path):
        writer(run, path)
