"""A report card as HTML, for the run's page and for the report to take away. Floor 5; no gradio."""

from __future__ import annotations

import html
from collections.abc import Sequence

from orpo_qlora.charts import margins
from orpo_qlora.data.wording import plural
from orpo_qlora.evaluation import report_card
from orpo_qlora.evaluation.report_card import HOW, Flip, ReportCard
from orpo_qlora.runs.store import Run

FLIPS_SHOWN = 10


def draw_report(run: Run, card: ReportCard) -> str:
    """Return a report card as HTML: verdict, figures, picture, pairs that flipped."""
    sentences = card.sentences()
    told = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in sentences[1:])
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in (*card.notes, *HOW))
    return (
        '<section class="card report">'
        f'<p class="card-title">{html.escape(sentences[0])}</p>{_figures(card)}'
        f"{margins.draw_margins(card.scores.margins(tuned=False), card.scores.margins(tuned=True))}"
        f"{told}{flip_tables(run, card, FLIPS_SHOWN)}"
        f"<details><summary>How it was measured</summary>{notes}</details></section>"
    )


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


def flip_tables(run: Run, card: ReportCard, most: int) -> str:
    """Return the pairs that changed sides with their texts, as folded tables."""
    parts = []
    for gained, words, count in (
        (True, "flipped to the chosen answer", card.difference.gained),
        (False, "flipped away from it", card.difference.lost),
    ):
        if not count:
            continue
        found = report_card.flips(run, card, gained=gained, most=most)
        first = f", the {len(found):,} clearest" if len(found) < count else ""
        side = "gained" if gained else "lost"
        parts.append(
            f'<details class="flips" data-flips="{side}">'
            f"<summary>{plural(count, 'pair')} {words}{first}</summary>{_flips(found)}</details>"
        )
    return "".join(parts)


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
