"""The Data tab's columns: which is which part of a preference, and the pairs of a ranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from orpo_qlora.data.choices import PairsFromRanking
from orpo_qlora.data.columns import ColumnMapping
from orpo_qlora.data.summary import DataSummary
from orpo_qlora.data.wording import brief, plural
from orpo_qlora.ui.data import findings_view
from orpo_qlora.ui.parts.guard import Updates

NO_COLUMN = ("–", "")
PART_LABELS = {
    "prompt": "Prompt",
    "chosen": "Chosen",
    "rejected": "Rejected",
    "system": "System message",
    "context": "Context",
}
RANKING_LABELS: dict[PairsFromRanking, str] = {
    "best_worst": "Best against worst",
    "best_rest": "Best against rest",
    "all": "Each against all worse",
}


@dataclass(frozen=True)
class ColumnRow:
    """A dropdown of columns for each part of a preference, and the button that applies them."""

    fold: gr.Accordion
    note: gr.HTML
    parts: dict[str, gr.Dropdown]
    has_header: gr.Checkbox
    apply: gr.Button
    ranking: gr.Radio
    """Pairs of a ranked row; visible for ranked files only, and applied at once."""

    @property
    def inputs(self) -> list[Any]:
        """The choice, in the order of `corrections.choose_columns`."""
        return [*self.parts.values(), self.has_header]

    @property
    def outputs(self) -> list[Any]:
        """Every component that changes with the file."""
        return [self.fold, self.note, self.ranking, *self.inputs]


def build() -> ColumnRow:
    """Return the components, hidden until there is a file."""
    fold = gr.Accordion("Columns", open=False, visible=False, elem_id="data-columns")
    with fold:
        note = gr.HTML(elem_id="data-columns-note")
        ranking = gr.Radio(
            [(label, setting) for setting, label in RANKING_LABELS.items()],
            label="Pairs from ranking",
            visible=False,
            interactive=True,
            elem_id="data-ranking",
        )
        with gr.Row():
            parts = {
                part: gr.Dropdown(
                    [NO_COLUMN],
                    value="",
                    label=label,
                    elem_id=f"column-{part}",
                    interactive=True,
                    min_width=160,
                )
                for part, label in PART_LABELS.items()
            }
        with gr.Row(elem_classes="actions"):
            apply = gr.Button(
                findings_view.APPLY, elem_id="data-columns-use", size="md", scale=0, min_width=160
            )
            has_header = gr.Checkbox(
                True,
                label=findings_view.HEADER_LABEL,
                container=False,
                elem_id="data-has-header",
            )
    return ColumnRow(
        fold=fold, note=note, parts=parts, has_header=has_header, apply=apply, ranking=ranking
    )


def summary_updates(row: ColumnRow, report: DataSummary) -> Updates:
    """Return the row for a file that was read, open if columns were guessed or it is ranked."""
    used = dict(report.mapping.parts()) if report.mapping else {}
    is_guessed = bool(report.mapping and report.mapping.guessed)
    is_open = is_guessed or bool(report.ranking_pairs)
    can_lack_header = not report.format.startswith(("JSON", "Parquet"))
    return {
        row.fold: gr.Accordion(_title(used), visible=True, open=is_open),
        row.note: findings_view.columns_note(report),
        row.has_header: gr.Checkbox(report.choices.has_header, visible=can_lack_header),
        row.ranking: _ranking_update(report),
        **_dropdown_updates(row, report.columns, used),
    }


@dataclass(frozen=True)
class ColumnQuestion:
    """A file whose columns the user must choose."""

    columns: Sequence[str]
    found: Mapping[str, str]
    """Columns by part, as far as they were recognised."""
    chosen: ColumnMapping | None
    """What the user chose before, if anything."""
    has_header: bool
    can_lack_header: bool
    """Whether a first line may name the columns, as in a CSV."""


def question_updates(row: ColumnRow, question: ColumnQuestion) -> Updates:
    """Return the row opened for the user to choose the columns of a file."""
    used = dict(question.chosen.parts()) if question.chosen else question.found
    return {
        **_dropdown_updates(row, question.columns, used),
        row.has_header: gr.Checkbox(question.has_header, visible=question.can_lack_header),
        row.note: "",
        row.ranking: gr.Radio(visible=False),
        row.fold: gr.Accordion(_title(used), visible=True, open=True),
    }


def _ranking_update(report: DataSummary) -> gr.Radio:
    """Return the ranking settings with the pair count of each, hidden for a file without ranks."""
    if not report.ranking_pairs:
        return gr.Radio(visible=False)
    choices = [
        (f"{label}: {plural(report.ranking_pairs[setting], 'pair')}", setting)
        for setting, label in RANKING_LABELS.items()
    ]
    return gr.Radio(choices, value=report.choices.pairs_from_ranking, visible=True)


def _title(used: Mapping[str, str]) -> str:
    named = ", ".join(f"{part} is {brief(column)}" for part, column in used.items())
    return f"Columns: {named}" if named else "Columns"


def _dropdown_updates(row: ColumnRow, columns: Sequence[str], used: Mapping[str, str]) -> Updates:
    choices = [NO_COLUMN, *((brief(name)[1:-1], name) for name in columns if name.strip())]
    return {
        component: gr.Dropdown(choices, value=used.get(part, ""))
        for part, component in row.parts.items()
    }
