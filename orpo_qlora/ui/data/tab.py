"""The Data tab: choose preference pairs, by upload or example, and see what they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from orpo_qlora.data.columns import ColumnMapping
from orpo_qlora.data.examples import EXAMPLES, example_path
from orpo_qlora.data.pairs import PreferenceData, PreferencePair, preview
from orpo_qlora.data.wording import brief, plural
from orpo_qlora.errors import DataError, NeedsColumns
from orpo_qlora.ui.data import corrections, findings_view, token_panel, uploads
from orpo_qlora.ui.data.token_panel import TokenPanel
from orpo_qlora.ui.data.uploads import Progress
from orpo_qlora.ui.parts import cards, downloads
from orpo_qlora.ui.parts.downloads import Downloads
from orpo_qlora.ui.parts.guard import Updates

PREVIEW_PAIRS = 50
COLUMNS = ["Row", "Prompt", "Chosen", "Rejected"]
PREVIEW_CHARACTERS = 400
FILE_TYPES = [".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json", ".parquet"]
NO_COLUMN = ("–", "")
PART_LABELS = {
    "prompt": "Prompt",
    "chosen": "Chosen answer",
    "rejected": "Rejected answer",
    "system": "System message",
    "context": "Context",
}


@dataclass(frozen=True)
class ColumnRow:
    """The row of dropdowns that says which column is which."""

    fold: gr.Accordion
    note: gr.HTML
    parts: dict[str, gr.Dropdown]
    has_header: gr.Checkbox
    use: gr.Button

    @property
    def inputs(self) -> list[Any]:
        """What the button hands over."""
        return [*self.parts.values(), self.has_header]

    @property
    def outputs(self) -> list[Any]:
        """Every component that changes with the file."""
        return [self.fold, self.note, *self.inputs]


@dataclass(frozen=True)
class DataTab:
    """The components of the tab; `dataset_id` is what the rest of the page needs."""

    tab: gr.Tab
    dataset_id: gr.Textbox
    upload: gr.File
    examples: dict[str, gr.Button]
    card: gr.HTML
    account: gr.HTML
    go_on: gr.Button
    columns: ColumnRow
    findings: gr.HTML
    downloads: Downloads
    preview: gr.Dataframe
    tokens: TokenPanel

    @property
    def outputs(self) -> list[Any]:
        """Every component that changes with the choice."""
        return [
            *(self.dataset_id, self.card, self.account, self.go_on),
            *(*self.columns.outputs, self.findings, self.downloads.row, self.preview),
        ]


def build_data_tab() -> DataTab:
    """Return the tab's components, empty."""
    with gr.Tab("Data", id="data", elem_id="tab-data", render_children=True) as tab:
        dataset_id = gr.Textbox(visible="hidden", elem_id="data-id", label="Dataset")
        gr.HTML(
            cards.heading(
                "Preference pairs",
                "CSV, TSV, JSON, JSON Lines or Parquet with a prompt, the answer people preferred "
                "and the one they did not; single questions or whole conversations.",
            )
        )
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                upload = gr.File(
                    label="Your file",
                    file_types=FILE_TYPES,
                    type="filepath",
                    height=176,
                    elem_id="data-upload",
                )
            with gr.Column(scale=2, min_width=280, elem_classes="examples"):
                gr.HTML('<p class="label">Or try an example</p>')
                examples = {name: _example_button(name) for name in EXAMPLES}
        card = _choices_html("data-error", visible=True)
        account = _choices_html("data-account")
        with gr.Row(elem_classes="actions"):
            go_on = gr.Button(
                "Continue to training",
                variant="primary",
                visible=False,
                elem_id="data-continue",
                scale=0,
                min_width=220,
            )
        columns = _build_column_row()
        findings = _choices_html("data-findings")
        to_take = downloads.build_downloads()
        shown = _build_preview()
        tokens = token_panel.build_token_panel()
    return DataTab(
        *(tab, dataset_id, upload, examples, card, account, go_on),
        *(columns, findings, to_take, shown, tokens),
    )


def _choices_html(elem_id: str, *, visible: bool = False) -> gr.HTML:
    return gr.HTML(visible=visible, elem_id=elem_id, js_on_load=findings_view.CHOOSING)


def _example_button(name: str) -> gr.Button:
    example = EXAMPLES[name]
    button = gr.Button(example.title, elem_id=f"example-{name}", size="md")
    gr.HTML(f'<p class="quiet">{example.description}</p>')
    return button


def _build_column_row() -> ColumnRow:
    fold = gr.Accordion("Columns", open=False, visible=False, elem_id="data-columns")
    with fold:
        note = gr.HTML(elem_id="data-columns-note")
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
            use = gr.Button(
                "Read it so", elem_id="data-columns-use", size="md", scale=0, min_width=160
            )
            has_header = gr.Checkbox(
                True,
                label="The first line names the columns",
                container=False,
                elem_id="data-has-header",
            )
    return ColumnRow(fold, note, parts, has_header, use)


def _build_preview() -> gr.Dataframe:
    return gr.Dataframe(
        headers=COLUMNS,
        datatype="str",
        interactive=False,
        wrap=True,
        visible=False,
        max_height=420,
        column_widths=["64px", "280px", "380px", "380px"],
        label="Preview",
        elem_id="data-preview",
        buttons=["fullscreen"],
    )


def upload_updates(tab: DataTab, path: str | None, progress: Progress) -> Iterator[Updates]:
    """Keep an uploaded file and show it: its first pairs at once, the rest when it is read."""
    if not path:
        yield dataset_updates(tab, "")
        return
    first = _first_pairs(Path(path))
    if first:
        yield {
            **dataset_updates(tab, ""),
            tab.card: cards.busy("Reading and examining the whole file …"),
            tab.preview: _preview(first, f"First {plural(len(first), 'pair')}"),
        }
    dataset_id = uploads.keep_dataset(Path(path), Path(path).name, progress)
    yield dataset_updates(tab, dataset_id)


def _first_pairs(path: Path) -> Sequence[PreferencePair]:
    try:
        return preview(path, path.name)[1]
    except DataError:
        return ()  # reading all of it says what is wrong


def example_updates(tab: DataTab, name: str) -> Updates:
    """Keep a packaged example and show it."""
    path = example_path(name)
    return dataset_updates(tab, uploads.keep_dataset(path, path.name)) | {tab.upload: None}


def answer_updates(tab: DataTab, dataset_id: str, choice: str, progress: Progress) -> Updates:
    """Take what a button says, and show the file as it reads then."""
    corrections.answer(dataset_id, choice)
    return dataset_updates(tab, dataset_id, progress)


def column_updates(
    tab: DataTab, dataset_id: str, values: Sequence[object], progress: Progress
) -> Updates:
    """Take what the row of columns says, and show the file as it reads then."""
    *parts, has_header = values
    corrections.choose_columns(dataset_id, parts, has_header=bool(has_header))
    return dataset_updates(tab, dataset_id, progress)


def dataset_updates(tab: DataTab, dataset_id: str, progress: Progress | None = None) -> Updates:
    """Return what the tab shows for a kept file; nothing for no file."""
    if not dataset_id:
        return {tab.dataset_id: "", **_hidden(tab)}
    try:
        dataset = uploads.open_dataset(dataset_id, progress)
    except DataError as error:
        if not uploads.is_kept(dataset_id):
            raise
        return _question_updates(tab, dataset_id, error)
    return _account_updates(tab, dataset_id, dataset)


def _hidden(tab: DataTab) -> Updates:
    parts = [tab.account, tab.preview, tab.go_on, tab.findings, tab.downloads.row]
    # Called while the page is built too, where a component made here would be shown on it.
    return {part: gr.update(visible=False) for part in [*parts, tab.columns.fold]}


def _question_updates(tab: DataTab, dataset_id: str, error: DataError) -> Updates:
    """Return what the tab shows for a file that cannot be used as it is read now."""
    choices = uploads.choices_of(dataset_id)
    updates: Updates = {
        tab.dataset_id: dataset_id,
        **_hidden(tab),
        tab.card: findings_view.question_card(error, choices),
    }
    if isinstance(error, NeedsColumns):
        found = dict(choices.mapping.parts()) if choices.mapping else error.found
        updates |= _column_updates(tab.columns, error.columns, found)
        # The row may have been another file's: the hint speaks of this box.
        updates[tab.columns.has_header] = gr.Checkbox(choices.has_header, visible=True)
        updates[tab.columns.note] = ""
        updates[tab.columns.fold] = gr.Accordion(_column_title(found), visible=True, open=True)
    return updates


def _account_updates(tab: DataTab, dataset_id: str, dataset: PreferenceData) -> Updates:
    report, row = dataset.report, tab.columns
    pairs = dataset.pairs[:PREVIEW_PAIRS]
    label = f"First {len(pairs)} of {len(dataset.pairs):,} pairs"
    guessed = bool(report.mapping and report.mapping.guessed)
    found = _parts(report.mapping)
    return {
        tab.dataset_id: dataset_id,
        tab.account: gr.HTML(findings_view.account_card(report), visible=True),
        tab.findings: gr.HTML(findings_view.findings_list(report), visible=True),
        tab.preview: _preview(pairs, label),
        tab.go_on: gr.Button(visible=True),
        tab.downloads.row: gr.Row(visible=True),
        row.fold: gr.Accordion(_column_title(found), visible=True, open=guessed),
        row.note: findings_view.columns_note(report),
        row.has_header: gr.Checkbox(
            report.choices.has_header, visible=not report.format.startswith(("JSON", "Parquet"))
        ),
        **_column_updates(row, report.columns, found),
    }


def _parts(mapping: ColumnMapping | None) -> dict[str, str]:
    return dict(mapping.parts()) if mapping else {}


def _column_title(found: Mapping[str, str]) -> str:
    named = ", ".join(f"{part} is {brief(column)}" for part, column in found.items())
    return f"Columns: {named}" if named else "Columns"


def _column_updates(row: ColumnRow, columns: Sequence[str], found: Mapping[str, str]) -> Updates:
    choices = [NO_COLUMN, *((brief(name)[1:-1], name) for name in columns if name.strip())]
    return {
        component: gr.Dropdown(choices, value=found.get(part, ""))
        for part, component in row.parts.items()
    }


def _preview(pairs: Sequence[PreferencePair], label: str) -> gr.Dataframe:
    rows = [
        [str(pair.row), *(_cut(text) for text in (_asked(pair), pair.chosen, pair.rejected))]
        for pair in pairs
    ]
    return gr.Dataframe(rows, visible=True, label=label)


def _asked(pair: PreferencePair) -> str:
    if not pair.earlier:
        return pair.prompt
    return "\n".join(f"{turn.role}: {turn.content}" for turn in pair.conversation)


def _cut(text: str) -> str:
    return text if len(text) <= PREVIEW_CHARACTERS else text[:PREVIEW_CHARACTERS] + " …"
