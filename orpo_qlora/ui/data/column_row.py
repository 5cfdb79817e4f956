"""The Data tab's columns: the shape of a file, its columns, and the pairs of a ranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from orpo_qlora.data.columns import PARTS_OF_SHAPE, ColumnMapping, mapping_of
from orpo_qlora.data.files.choices import Labelled, PairsFromRanking
from orpo_qlora.data.summary import DataSummary
from orpo_qlora.data.wording import brief, plural
from orpo_qlora.ui.data import findings_view
from orpo_qlora.ui.data.corrections import FIELDS
from orpo_qlora.ui.parts.controls import PART_LABELS, SHAPE_LABELS, VALUE_LABELS
from orpo_qlora.ui.parts.guard import Updates

NO_COLUMN = ("–", "")
SHAPE_CHOICES = [(label, name) for name, label in SHAPE_LABELS.items()]
VALUES_HINT = "such as: a, 1 or <0"
REVERSED_SHAPES = ("verdict", "ranking", "labelled")
RANKING_LABELS: dict[PairsFromRanking, str] = {
    "best_worst": "Best against worst",
    "best_rest": "Best against rest",
    "all": "Each against all worse",
}
LABELLED_LABELS: dict[Labelled, str] = {
    "pairs": "Pairs by prompt",
    "single": "Single responses, for kto",
}
LABELLED_NOUNS: dict[Labelled, str] = {"pairs": "pair", "single": "response"}


@dataclass(frozen=True)
class ColumnRow:
    """The shape, a dropdown of columns for each of its parts, and the button that applies them."""

    fold: gr.Accordion
    note: gr.HTML
    shape: gr.Dropdown
    parts: dict[str, gr.Dropdown]
    values: dict[str, gr.Textbox]
    """Values of a verdict that choose the first or the second response."""
    is_reversed: gr.Checkbox
    has_header: gr.Checkbox
    apply: gr.Button
    ranking: gr.Radio
    """Pairs of a ranked row; visible for ranked files only, and applied at once."""
    labelled: gr.Radio
    """How labelled responses are read; likewise, for files of them."""

    @property
    def inputs(self) -> list[Any]:
        """The choice, in the order of `corrections.FIELDS`, and whether there is a header."""
        named = {
            **self.parts,
            **self.values,
            "shape": self.shape,
            "is_reversed": self.is_reversed,
        }
        return [*(named[field] for field in FIELDS), self.has_header]

    @property
    def outputs(self) -> list[Any]:
        """Every component that changes with the file."""
        return [self.fold, self.note, self.ranking, self.labelled, *self.inputs]


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
        labelled = gr.Radio(
            [(label, setting) for setting, label in LABELLED_LABELS.items()],
            label="Labelled rows",
            visible=False,
            interactive=True,
            elem_id="data-labelled",
        )
        shape = gr.Dropdown(
            SHAPE_CHOICES,
            value="pairs",
            label="Shape",
            elem_id="data-shape",
            interactive=True,
        )
        with gr.Row():
            parts = {part: _part(part, label) for part, label in PART_LABELS.items()}
            values = {field: _value(field, label) for field, label in VALUE_LABELS.items()}
        with gr.Row(elem_classes="actions"):
            apply = gr.Button(
                findings_view.APPLY, elem_id="data-columns-use", size="md", scale=0, min_width=160
            )
            is_reversed = gr.Checkbox(
                False,
                label="Swap better and worse",
                container=False,
                visible=False,
                elem_id="data-reversed",
            )
            has_header = gr.Checkbox(
                True,
                label=findings_view.HEADER_LABEL,
                container=False,
                elem_id="data-has-header",
            )
    return ColumnRow(
        fold=fold,
        note=note,
        shape=shape,
        parts=parts,
        values=values,
        is_reversed=is_reversed,
        has_header=has_header,
        apply=apply,
        ranking=ranking,
        labelled=labelled,
    )


def _part(part: str, label: str) -> gr.Dropdown:
    return gr.Dropdown(
        [NO_COLUMN],
        value="",
        label=label,
        elem_id=f"column-{part}",
        interactive=True,
        min_width=160,
        visible=part in PARTS_OF_SHAPE["pairs"],
    )


def _value(field: str, label: str) -> gr.Textbox:
    return gr.Textbox(
        label=label,
        placeholder=VALUES_HINT,
        max_lines=1,
        visible=False,
        interactive=True,
        min_width=160,
        elem_id=f"data-{field.replace('_', '-')}",
    )


def summary_updates(row: ColumnRow, report: DataSummary) -> Updates:
    """Return the row for a file that was read, open if there is something to confirm."""
    mapping = report.mapping or ColumnMapping()
    is_open = bool(mapping.guessed) or bool(report.ranking_pairs) or mapping.shape != "pairs"
    can_lack_header = not report.format.startswith(("JSON", "Parquet"))
    return {
        row.fold: gr.Accordion(_title(mapping), visible=True, open=is_open),
        row.note: findings_view.columns_note(report),
        row.has_header: gr.Checkbox(report.choices.has_header, visible=can_lack_header),
        row.ranking: _ranking_update(report),
        row.labelled: _labelled_update(report),
        **_mapping_updates(row, report.columns, mapping),
    }


@dataclass(frozen=True)
class ColumnQuestion:
    """A file whose columns the user must choose."""

    columns: Sequence[str]
    found: Mapping[str, str]
    """Shape and columns by part, as far as they were recognised."""
    chosen: ColumnMapping | None
    """What the user chose before, if anything."""
    has_header: bool
    can_lack_header: bool
    """Whether a first line may name the columns, as in a CSV."""


def question_updates(row: ColumnRow, question: ColumnQuestion) -> Updates:
    """Return the row opened for the user to choose the columns of a file."""
    mapping = question.chosen or mapping_of(question.found)
    return {
        **_mapping_updates(row, question.columns, mapping),
        row.has_header: gr.Checkbox(question.has_header, visible=question.can_lack_header),
        row.note: "",
        row.ranking: gr.Radio(visible=False),
        row.labelled: gr.Radio(visible=False),
        row.fold: gr.Accordion(_title(mapping), visible=True, open=True),
    }


def shape_updates(row: ColumnRow, mapping: ColumnMapping) -> Updates:
    """Return the parts of a shape that the user picked, with the columns recognised for them."""
    used = dict(mapping.parts())
    return {
        **{
            component: gr.update(value=used.get(part, ""), visible=part in _shown(mapping))
            for part, component in row.parts.items()
        },
        **_value_updates(row, mapping),
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


def _labelled_update(report: DataSummary) -> gr.Radio:
    """Return the readings of labelled rows with the count of each, hidden for other files."""
    if not report.labelled_counts:
        return gr.Radio(visible=False)
    choices = [
        (f"{label}: {plural(report.labelled_counts[setting], LABELLED_NOUNS[setting])}", setting)
        for setting, label in LABELLED_LABELS.items()
    ]
    return gr.Radio(choices, value=report.choices.labelled or "pairs", visible=True)


def _title(mapping: ColumnMapping) -> str:
    used = [f"{PART_LABELS[part].lower()} is {brief(column)}" for part, column in mapping.parts()]
    lead = "Columns" if mapping.shape == "pairs" else SHAPE_LABELS[mapping.shape]
    return f"{lead}: {', '.join(used)}" if used else lead


def _shown(mapping: ColumnMapping) -> tuple[str, ...]:
    return PARTS_OF_SHAPE[mapping.shape]


def _mapping_updates(row: ColumnRow, columns: Sequence[str], mapping: ColumnMapping) -> Updates:
    used = dict(mapping.parts())
    choices = [NO_COLUMN, *((brief(name)[1:-1], name) for name in columns if name.strip())]
    return {
        row.shape: gr.Dropdown(SHAPE_CHOICES, value=mapping.shape),
        **{
            component: gr.Dropdown(
                choices, value=used.get(part, ""), visible=part in _shown(mapping)
            )
            for part, component in row.parts.items()
        },
        **_value_updates(row, mapping),
    }


def _value_updates(row: ColumnRow, mapping: ColumnMapping) -> Updates:
    is_verdict = mapping.shape == "verdict"
    return {
        **{
            component: gr.Textbox(getattr(mapping, field), visible=is_verdict)
            for field, component in row.values.items()
        },
        row.is_reversed: gr.Checkbox(mapping.is_reversed, visible=mapping.shape in REVERSED_SHAPES),
    }
