"""A file's summary and findings as HTML, with a button for every fix.

Everything that comes from a file is escaped.
"""

from __future__ import annotations

import html

from orpo_qlora.data.files.choices import DEFAULT_RANKING, ReadChoices
from orpo_qlora.data.summary import DataSummary, Drop, Finding, row_list
from orpo_qlora.data.wording import brief, plural
from orpo_qlora.errors import (
    BrokenRows,
    DataError,
    NeedsColumns,
    NeedsEncoding,
    PromptProposal,
)
from orpo_qlora.ui.parts import cards
from orpo_qlora.ui.parts.buttons import choice_button
from orpo_qlora.ui.parts.controls import named_on_page

PROPOSED_CHARACTERS = 600
SEVERITIES = {"error": "Dropped", "warning": "Warning", "note": "Note"}
DROP_BROKEN = "Drop broken rows"
APPLY = "Apply"
HEADER_LABEL = "Header in first line"

USE_PREFIX = "Use common prefix"
PREFIX_HINT = (
    f"If row {{row}} reads correctly, press “{USE_PREFIX}”. Otherwise choose the columns below and "
    f"press “{APPLY}”."
)
VERDICT_HINT = (
    "Choose the column with the verdict below, and write into “First wins if” and “Second wins if” "
    f"which of its values choose each response; then press “{APPLY}”."
)
COLUMNS_HINT = f"Choose the columns below and press “{APPLY}”."
HEADER_HINT = f" If the first line is already a preference, untick “{HEADER_LABEL}” first."


def summary_card(report: DataSummary) -> str:
    """Return the file's name, counts, format and the user's choices about it."""
    if report.files:
        return _set_card(report)
    format_ = " · ".join(part for part in (report.format, report.encoding) if part)
    hub = report.hub.sentence() if report.hub else ""
    choices = _choices_sentence(report)
    undo = choice_button("forget", "Undo my choices", "quiet-button") if choices else ""
    return cards.text_card(
        report.source,
        [*report.sentences()[:1], *filter(None, (format_, hub, choices))],
        undo,
    )


def _set_card(report: DataSummary) -> str:
    lines = [*report.sentences()[:1], *(part.sentence() for part in report.files)]
    has_choices = not all(part.summary.choices.are_default for part in report.files)
    undo = ""
    if has_choices or not report.choices.are_default:
        undo = choice_button("forget", "Undo my choices", "quiet-button")
    return cards.text_card(report.source, lines, undo)


def _choices_sentence(report: DataSummary) -> str:
    choices, parts = report.choices, []
    if choices.encoding:
        parts.append(f"read as {report.encoding or choices.encoding}")
    if not choices.has_header:
        parts.append("the first line is not a header")
    if choices.mapping:
        named = ", ".join(f"{brief(column)} as {part}" for part, column in choices.mapping.parts())
        parts.append(f"columns {named}")
    if report.ranking_pairs and choices.pairs_from_ranking != DEFAULT_RANKING:
        parts.append(f"pairs from ranking: {choices.pairs_from_ranking}")
    if choices.prompt_from_common_prefix:
        parts.append("the common prefix is the prompt")
    if choices.fixes:
        parts.append(plural(len(choices.fixes), "fix").replace("fixs", "fixes"))
    return f"Your choices: {'; '.join(parts)}." if parts else ""


def findings_list(report: DataSummary) -> str:
    """Return all findings, most serious first, each with its rows and its fix."""
    if not report.findings:
        return cards.text_card("Pair doctor", ["No problems found."])
    items = "".join(_finding(finding) for finding in report.findings)
    read = f"{report.rows_read:,} rows"
    if report.candidates != report.rows_read:
        read += f" with {plural(report.candidates, 'preference')}"
    kept = f"{read} = {report.count_text(sides=False)} kept"
    dropped = [_dropped(drop) for drop in report.drops]
    total = html.escape(" + ".join([kept, *dropped]) + ".")
    return (
        '<section class="card findings"><p class="card-title">Pair doctor</p>'
        f'<ul>{items}</ul><p class="quiet">{total}</p></section>'
    )


def _dropped(drop: Drop) -> str:
    place = f" ({drop.file})" if drop.file else ""
    return f"{drop.count:,} {'dropped: ' if drop.rows else ''}{drop.label}{place}"


def _finding(finding: Finding) -> str:
    # A finding about the whole file has no rows and gives its numbers in its label.
    count = f"{finding.count:,} · {_share(finding.share)}" if finding.rows else ""
    state = "fixed" if finding.fixed else finding.severity
    pill = "Fixed" if finding.fixed else SEVERITIES[finding.severity]
    label = f"{finding.label[:1].upper()}{finding.label[1:]}"
    label = f"{finding.file}: {label}" if finding.file else label
    advice = f"<p>{html.escape(finding.advice)}</p>" if finding.advice else ""
    return (
        f'<li class="finding" data-finding="{html.escape(finding.id)}">'
        f'<div class="finding-head"><span class="pill pill-{state}">{pill}</span>'
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
        applied = f'<span class="quiet">Applied: {html.escape(finding.fix)}.</span> '
        return f'<p class="fix">{applied}{choice_button(f"unfix:{finding.id}", "Undo")}</p>'
    return f'<p class="fix">{choice_button(f"fix:{finding.id}", finding.fix)}</p>'


def question_card(error: DataError, choices: ReadChoices) -> str:
    """Return why a file cannot be used yet, with a button for every one-click answer."""
    buttons: list[str] = []
    hint = error.hint
    if isinstance(error, NeedsColumns):
        hint = COLUMNS_HINT + (HEADER_HINT if error.has_header else "")
        if error.found.get("shape") == "verdict":
            hint = VERDICT_HINT
        if error.proposal:
            hint = PREFIX_HINT.format(row=f"{error.proposal.row:,}")
            buttons = [_proposal(error.proposal)]
    if isinstance(error, NeedsEncoding):
        buttons = [
            f'<li><q dir="auto">{html.escape(candidate.preview)}</q>'
            f"{choice_button(f'encoding:{candidate.encoding}', f'Read as {candidate.label}')}</li>"
            for candidate in error.candidates
        ]
    elif isinstance(error, BrokenRows):
        buttons = [f"<li>{choice_button(f'fix:{error.fix}', DROP_BROKEN)}</li>"]
    if choices != ReadChoices():
        buttons.append(f"<li>{choice_button('forget', 'Undo my choices')}</li>")
    answers = f'<ul class="answers">{"".join(buttons)}</ul>' if buttons else ""
    return cards.error_card(error.message, hint=hint, where=error.where, more=answers)


def _proposal(proposal: PromptProposal) -> str:
    """Return the row as it would be read, with the button that confirms the reading."""
    texts = (
        ("Prompt", proposal.prompt),
        ("Chosen", proposal.chosen),
        ("Rejected", proposal.rejected),
    )
    shown = "".join(
        f"<li>{name}: <q dir='auto'>{html.escape(text[:PROPOSED_CHARACTERS])}</q></li>"
        for name, text in texts
    )
    return f"{shown}<li>{choice_button('prefix:yes', USE_PREFIX)}</li>"


def way_out(error: DataError) -> str:
    """Return what the user can do about a file that cannot be used, as one sentence."""
    if isinstance(error, NeedsColumns) and error.proposal:
        return f"Press “{USE_PREFIX}”, or choose the columns and press “{APPLY}”."
    if isinstance(error, NeedsColumns) and error.found.get("shape", "pairs") != "pairs":
        return f"Choose the columns in the Data tab, then press “{APPLY}”."
    if isinstance(error, NeedsColumns):
        return f"Choose the prompt, chosen and rejected columns, then press “{APPLY}”."
    if isinstance(error, NeedsEncoding) and error.candidates:
        return "Press “Read as …” under the text that reads correctly."
    if isinstance(error, BrokenRows):
        first = error.where.rpartition(", ")[2] or "the broken rows"  # “row 17”, as in the message
        return f"Fix {first} in your file and upload it again, or press “{DROP_BROKEN}”."
    return (
        named_on_page(error.hint) or "Correct the file and upload it again, or choose an example."
    )


def columns_note(report: DataSummary) -> str:
    """Return how the file was understood, which columns were guessed and which are not used."""
    columns = [line for line in report.sentences()[1:] if line.startswith("Columns")]
    lines = [*report.notes, *columns]
    return f'<p class="quiet">{html.escape(" ".join(lines))}</p>' if lines else ""
