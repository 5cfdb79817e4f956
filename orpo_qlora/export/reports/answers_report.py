"""An evaluation of answers as HTML: one table, pictures, clearest wins and losses. No scripts."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from orpo_qlora.charts import categories, rewards
from orpo_qlora.charts.categories import Bar, CategoryChart
from orpo_qlora.evaluation.reward.verdicts import Example, RewardDetails
from orpo_qlora.evaluation.suite import table
from orpo_qlora.evaluation.suite.figures import measure_of
from orpo_qlora.evaluation.suite.results import SuiteResults
from orpo_qlora.evaluation.suite.table import TableRow
from orpo_qlora.export.reports.html_report import POLICY, STYLES

INTERVALS = (
    "95 % intervals over prompts. The best value is bold only where its interval overlaps no other."
)


@dataclass(frozen=True)
class AnswersReport:
    """What is shown of an evaluation of answers."""

    results: SuiteResults
    reward: RewardDetails | None = None
    votes: Sequence[TableRow] = ()
    """The user's blind votes, as rows of the same table."""


def draw_answers(report: AnswersReport) -> str:
    """Return the evaluation as HTML for the page and the report."""
    results = report.results
    rows = [row for row in table.rows_of(results) if not row.category]
    sentences = [sentence for part in results.parts for sentence in part.sentences]
    picture, examples = "", ""
    if report.reward is not None and report.reward.rewards:
        picture = rewards.draw_rewards(report.reward.rewards)
        examples = _examples("Clearest wins", report.reward.wins)
        examples += _examples("Clearest losses", report.reward.losses)
    return (
        '<section class="card report">'
        f'<p class="card-title">{html.escape(_title(results))}</p>'
        f"{_table([*rows, *report.votes], [one.name for one in results.systems])}"
        f'<p class="quiet">{html.escape(INTERVALS)}</p>{_paragraphs(sentences)}{picture}'
        f"{_categories(results)}{examples}"
        "<details><summary>How it was measured</summary>"
        f"{_paragraphs([*_meanings(rows), *results.notes])}</details></section>"
    )


def answers_html(report: AnswersReport) -> str:
    """Return the evaluation as one self-contained HTML document."""
    styles = "\n".join(path.read_text(encoding="utf-8") for path in STYLES)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>Evaluation of answers – orpo-qlora</title><style>{styles}</style></head>"
        f'<body><main class="prose"><h1>Evaluation of answers</h1>{draw_answers(report)}</main>'
        "</body></html>\n"
    )


def write_answers_html(path: Path, report: AnswersReport) -> None:
    """Write the evaluation as HTML."""
    path.write_text(answers_html(report), encoding="utf-8")


def _title(results: SuiteResults) -> str:
    count, sampling = len(results.prompts.prompts), results.sampling
    return (
        f"{count:,} prompts ({results.prompts.name}), {sampling.samples} "
        f"answer{'' if sampling.samples == 1 else 's'} each, temperature "
        f"{sampling.temperature:g}, seed {sampling.seed}"
    )


def _table(rows: Iterable[TableRow], systems: Sequence[str]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("", *systems))
    body = "".join(
        f"<tr><td>{html.escape(row.title)}</td>{''.join(_cell(row, name) for name in systems)}</tr>"
        for row in rows
    )
    return (
        '<table class="settings report-figures answers-table">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def _cell(row: TableRow, system: str) -> str:
    text = html.escape(row.cells.get(system, "–"))
    shown = f"<strong>{text}</strong>" if row.best == system else text
    return f'<td data-title="{html.escape(system)}">{shown}</td>'


def _categories(results: SuiteResults) -> str:
    """Return a chart for each measure that has categories, collapsed."""
    rows: dict[tuple[str, str], dict[str, dict[str, Bar]]] = {}
    for one in results.figures:
        if one.category:
            bars = rows.setdefault((one.measure, one.opponent), {}).setdefault(one.category, {})
            interval = one.interval
            bars[one.system] = Bar(interval.value, interval.low, interval.high, table.text_of(one))
    if not rows:
        return ""
    systems = [one.name for one in results.systems]
    charts = "".join(
        categories.draw_categories(
            CategoryChart(
                title=measure_of(measure).title,
                note=f"by category{f', against {opponent}' if opponent else ''}",
                rows=found,
                systems=systems,
            )
        )
        for (measure, opponent), found in rows.items()
    )
    return f"<details><summary>By category</summary>{charts}</details>"


def _examples(title: str, examples: Sequence[Example]) -> str:
    if not examples:
        return ""
    body = "".join(
        f"<tr><td>{html.escape(one.prompt)}</td><td>{html.escape(one.answer)}</td>"
        f"<td>{html.escape(one.other)}</td><td>{one.difference:+.2f}</td></tr>"
        for one in examples
    )
    head = "<tr><th>Prompt</th><th>Run</th><th>Base</th><th>Reward difference</th></tr>"
    return (
        f"<details><summary>{title} ({len(examples)})</summary>"
        f'<table class="settings"><thead>{head}</thead><tbody>{body}</tbody></table></details>'
    )


def _meanings(rows: Iterable[TableRow]) -> list[str]:
    names = dict.fromkeys(row.measure for row in rows)
    return [f"{measure_of(name).title}: {measure_of(name).meaning}." for name in names]


def _paragraphs(texts: Iterable[str]) -> str:
    return "".join(f"<p>{html.escape(text)}</p>" for text in texts)
