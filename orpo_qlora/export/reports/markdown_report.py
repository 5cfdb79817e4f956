"""A run on one page of Markdown: results, data and objective. Floor 5."""

from __future__ import annotations

from orpo_qlora.config import TrainConfig
from orpo_qlora.data.wording import plural
from orpo_qlora.evaluation import report_card
from orpo_qlora.evaluation.report_card import Flip, ReportCard
from orpo_qlora.export.origin import origin_of, portable_config
from orpo_qlora.export.reports.card import final_numbers, report_figures, settings_of
from orpo_qlora.export.reports.markdown import plain, table
from orpo_qlora.export.reports.passport import loss_passport
from orpo_qlora.runs.store import Run

FLIPS_TOLD = 10
NOT_EVALUATED = "Not evaluated yet: press “Evaluate” on the run's page, or run: orpo-qlora evaluate"
_DEFAULTS = TrainConfig()


def markdown_report(run: Run) -> str:
    """Return a run as a page of Markdown; it holds the texts of pairs that changed sides."""
    origin, card = origin_of(run), report_card.read_card(run)
    lines = [
        *(f"# {plain(run.title)}", ""),
        f"Run `{run.id}`, {run.state.status} after {run.state.step:,} of "
        f"{plural(run.state.total_steps, 'step')}; base model {plain(origin.sentence)}.",
        *("", "## Report card", ""),
        *(_report_card(run, card) if card else [f"{plain(NOT_EVALUATED)} {run.id}"]),
        *("", "## Curves, first and last values", ""),
        *final_numbers(run),
        *("", "## Loss passport", ""),
        *table(("", ""), [(fact.label, fact.value) for fact in loss_passport(run, origin)]),
        *("", "## Data", ""),
        *(f"- {plain(sentence)}" for sentence in run.report.sentences()),
        *(f"- {plain(what)}: `{value}`" for what, value in run.report.hashes()),
        *("", "## Settings that are not the default", ""),
        *table(("setting", "value", "default"), changed_settings(run)),
        *("", "## Notes of the worker", ""),
        *(f"- {plain(note)}" for note in run.state.notes),
        "",
    ]
    return "\n".join(lines)


def changed_settings(run: Run) -> list[tuple[str, str, str]]:
    """Return the settings that differ from the default: name, value, default."""
    ours = settings_of(portable_config(run.config, origin_of(run)))
    usual = dict(settings_of(_DEFAULTS.model_copy(update={"method": run.config.method})))
    usual["method"] = _DEFAULTS.method
    return [(name, value, usual[name]) for name, value in ours if value != usual[name]]


def _report_card(run: Run, card: ReportCard) -> list[str]:
    lines = [f"- {plain(sentence)}" for sentence in card.sentences()]
    lines += ["", *report_figures(card)]
    for gained, words in ((True, "to the chosen response"), (False, "away from it")):
        found = report_card.flips(run, card, gained=gained, most=FLIPS_TOLD)
        if found:
            head = ("row", "prompt", "chosen", "rejected", "margin of base", "of tuned")
            lines += ["", f"### Flipped {words}", "", *table(head, map(_flip, found))]
    return lines


def _flip(flip: Flip) -> tuple[str, ...]:
    pair = flip.pair
    margins = (f"{flip.before:+.3f}", f"{flip.after:+.3f}")
    return (f"{pair.row:,}", pair.prompt, pair.chosen, pair.rejected, *margins)
