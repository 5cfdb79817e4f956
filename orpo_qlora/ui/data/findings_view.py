"""The account of a file as HTML: what was read, what the doctor found, buttons that mend it.

Floor 5. A button carries its choice, and one line of script hands it to the page's handler;
everything from a file is escaped.
"""

from __future__ import annotations

import html

from orpo_qlora.data.choices import ReadChoices
from orpo_qlora.data.summary import DataSummary, Finding, row_list
from orpo_qlora.data.wording import brief, plural
from orpo_qlora.errors import BrokenRows, DataError, NeedsColumns, NeedsEncoding
from orpo_qlora.ui.parts import cards

CHOOSING = (
    "element.addEventListener('click', (event) => {"
    " const button = event.target.closest('[data-choice]');"
    " if (button) { trigger('click', {choice: button.dataset.choice}); } });"
)
"""Script of a component whose buttons are choices: its click carries the one that was pressed."""

SEVERITIES = {"error": "Left out", "warning": "Warning", "note": "Note"}

COLUMNS_HINT = (
    "Say below which column is which. If the first line is a preference already, untick “The first "
    "line names the columns”."
)


def account_card(report: DataSummary) -> str:
    """Return what was read, what came of it and what the person decided."""
    format_ = " · ".join(part for part in (report.format, report.encoding) if part)
    decided = _decided(report)
    again = choice_button("forget", "Undo my choices", "quiet-button") if decided else ""
    return cards.account(
        report.source, [*report.sentences()[:1], *filter(None, (format_, decided))], again
    )


def _decided(report: DataSummary) -> str:
    choices, parts = report.choices, []
    if choices.encoding:
        parts.append(f"read as {report.encoding or choices.encoding}")
    if not choices.has_header:
        parts.append("the first line is a row")
    if choices.mapping:
        named = ", ".join(f"{brief(column)} as {part}" for part, column in choices.mapping.parts())
        parts.append(f"columns {named}")
    if choices.fixes:
        parts.append(plural(len(choices.fixes), "fix").replace("fixs", "fixes"))
    return f"Your choices: {'; '.join(parts)}." if parts else ""


def findings_list(report: DataSummary) -> str:
    """Return everything the doctor found, most serious first, each with its cure."""
    if not report.findings:
        return cards.account("Pair doctor", ["Nothing to worry about was found."])
    items = "".join(_finding(finding) for finding in report.findings)
    kept = f"{report.rows_read:,} rows = {plural(report.pairs, 'pair')} kept"
    sums = [f"{drop.count:,} left out: {drop.label}" for drop in report.drops]
    total = html.escape(" + ".join([kept, *sums]) + ".")
    return (
        '<section class="card findings"><p class="card-title">Pair doctor</p>'
        f'<ul>{items}</ul><p class="quiet">{total}</p></section>'
    )


def _finding(finding: Finding) -> str:
    # A finding about the whole file says its numbers in its words.
    count = f"{finding.count:,} · {_share(finding.share)}" if finding.rows else ""
    state = "fixed" if finding.fixed else finding.severity
    word = "Fixed" if finding.fixed else SEVERITIES[finding.severity]
    label = f"{finding.label[:1].upper()}{finding.label[1:]}"
    advice = f"<p>{html.escape(finding.advice)}</p>" if finding.advice else ""
    return (
        f'<li class="finding" data-finding="{html.escape(finding.id)}">'
        f'<div class="finding-head"><span class="pill pill-{state}">{word}</span>'
        f'<span class="finding-label">{html.escape(label)}</span>'
        f'<span class="finding-count">{count}</span></div>'
        f"{advice}{_examples(finding)}{_fix(finding)}</li>"
    )


def _share(share: float) -> str:
    percent = 100 * share
    return f"{percent:.0f} %" if percent >= 10 or percent == 0 else f"{max(percent, 0.1):.1f} %"


def _examples(finding: Finding) -> str:
    if not finding.rows:
        return ""
    shown = "".join(
        f"<li>Row {example.row:,}: <q dir='auto'>{html.escape(example.text)}</q></li>"
        for example in finding.examples
    )
    title = row_list(finding.rows, finding.count)
    summary = html.escape(title[:1].upper() + title[1:])
    if not shown:
        return f'<p class="quiet">{summary}</p>'
    return f"<details><summary>{summary}</summary><ul>{shown}</ul></details>"


def _fix(finding: Finding) -> str:
    if not finding.fix:
        return ""
    if finding.fixed:
        done = f'<span class="quiet">Done: {html.escape(finding.fix)}.</span> '
        return f'<p class="fix">{done}{choice_button(f"unfix:{finding.id}", "Undo")}</p>'
    return f'<p class="fix">{choice_button(f"fix:{finding.id}", finding.fix)}</p>'


def choice_button(choice: str, label: str, kind: str = "choice-button") -> str:
    """Return a button that hands its choice to the handler of its component's click."""
    return (
        f'<button type="button" class="{kind}" data-choice="{html.escape(choice)}">'
        f"{html.escape(label)}</button>"
    )


def question_card(error: DataError, choices: ReadChoices) -> str:
    """Return why a file cannot be used yet, with every answer that one click can give."""
    buttons: list[str] = []
    hint = error.hint
    if isinstance(error, NeedsColumns):
        hint = COLUMNS_HINT
    if isinstance(error, NeedsEncoding):
        buttons = [
            f'<li><q dir="auto">{html.escape(candidate.preview)}</q>'
            f"{choice_button(f'encoding:{candidate.encoding}', f'Read as {candidate.label}')}</li>"
            for candidate in error.candidates
        ]
    elif isinstance(error, BrokenRows):
        buttons = [f"<li>{choice_button(f'fix:{error.fix}', 'Leave these rows out')}</li>"]
    if choices != ReadChoices():
        buttons.append(f"<li>{choice_button('forget', 'Undo my choices')}</li>")
    answers = f'<ul class="answers">{"".join(buttons)}</ul>' if buttons else ""
    return cards.error_card(error.message, hint=hint, where=error.where, more=answers)


def columns_note(report: DataSummary) -> str:
    """Return what the page says about columns: which were guessed, which are not used."""
    lines = [line for line in report.sentences()[1:] if line.startswith("Columns")]
    return f'<p class="quiet">{html.escape(" ".join(lines))}</p>' if lines else ""
