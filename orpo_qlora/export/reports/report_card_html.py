"""A report card as HTML, for the run's page and for the exported report."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from orpo_qlora.charts import margins
from orpo_qlora.data.wording import plural
from orpo_qlora.evaluation import report_card
from orpo_qlora.evaluation.report_card import Flip, ReportCard
from orpo_qlora.runs.store import Run

FLIPS_SHOWN = 10


@dataclass(frozen=True)
class Report:
    """A report card with the texts of the pairs that changed sides."""

    card: ReportCard
    gained: tuple[Flip, ...]
    lost: tuple[Flip, ...]


def report_of(run: Run, card: ReportCard) -> Report:
    """Read the texts that belong to a card: those of the clearest flips on either side."""
    gained, lost = (
        tuple(report_card.flips(run, card, gained=side, most=FLIPS_SHOWN)) for side in (True, False)
    )
    return Report(card, gained, lost)


def draw_report(report: Report) -> str:
    """Return a report card as HTML: result, figures, margins, pairs that flipped."""
    card = report.card
    first, *sentences = card.sentences()
    text = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in sentences)
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in (*card.notes, *card.how))
    return (
        '<section class="card report">'
        f'<p class="card-title">{html.escape(first)}</p>{_figures(card)}{_margins(card)}'
        f"{text}{flip_tables(report)}"
        f"<details><summary>How it was measured</summary>{notes}</details></section>"
    )


def _margins(card: ReportCard) -> str:
    """Return the histogram of margins, which only pairs have."""
    if card.responses is not None:
        return ""
    return margins.draw_margins(card.scores.margins(tuned=False), card.scores.margins(tuned=True))


def _figures(card: ReportCard) -> str:
    def row(label: str, base: str, tuned: str) -> str:
        cells = "".join(
            f'<td data-title="{title}">{html.escape(text)}</td>'
            for title, text in (("", label), ("Base", base), ("Tuned", tuned))
        )
        return f"<tr>{cells}</tr>"

    rows = "".join(row(label, *texts) for label, *texts in card.figures())
    head = "<thead><tr><th>On held-out pairs</th><th>Base</th><th>Tuned</th></tr></thead>"
    return f'<table class="settings report-figures">{head}<tbody>{rows}</tbody></table>'


def flip_tables(report: Report) -> str:
    """Return the pairs that changed sides with their texts, as collapsed tables."""
    change = report.card.difference
    return "".join(
        (
            _flip_table("gained", "flipped to the chosen response", change.gained, report.gained),
            _flip_table("lost", "flipped away from it", change.lost, report.lost),
        )
    )


def _flip_table(side: str, text: str, count: int, shown: Sequence[Flip]) -> str:
    if not count:
        return ""
    first = f", the {len(shown):,} clearest" if len(shown) < count else ""
    return (
        f'<details class="flips" data-flips="{side}">'
        f"<summary>{plural(count, 'pair')} {text}{first}</summary>{_flips(shown)}</details>"
    )


def _flips(found: Sequence[Flip]) -> str:
    rows = "".join(
        f"<tr>{_cell('Prompt', flip.pair.prompt, f'row {flip.pair.row:,}')}"
        f"{_cell('Chosen', flip.pair.chosen)}{_cell('Rejected', flip.pair.rejected)}"
        f"{_cell('Margin', f'{flip.before:+.3f} → {flip.after:+.3f}')}</tr>"
        for flip in found
    )
    head = "".join(f"<th>{title}</th>" for title in ("Prompt", "Chosen", "Rejected", "Margin"))
    return f'<table class="samples"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'


def _cell(title: str, text: str, note: str = "") -> str:
    small = f"<small>{html.escape(note)}</small>" if note else ""
    # The title is shown instead of the table's head on a narrow screen.
    return (
        f'<td data-title="{title}"><div class="answer" dir="auto">{html.escape(text)}</div>'
        f"{small}</td>"
    )
