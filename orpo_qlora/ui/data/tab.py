"""The Data tab: choose preference files by upload or example, and check what was read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from orpo_qlora.data.examples import EXAMPLES, example_path
from orpo_qlora.data.pairs import PreferenceData, PreferencePair, preview
from orpo_qlora.data.summary import DataSummary
from orpo_qlora.data.wording import plural
from orpo_qlora.errors import DataError, NeedsColumns
from orpo_qlora.ui.data import (
    column_row,
    corrections,
    files_table,
    findings_view,
    hub_panel,
    token_panel,
    uploads,
)
from orpo_qlora.ui.data import downloads as data_downloads
from orpo_qlora.ui.data.column_row import ColumnQuestion, ColumnRow
from orpo_qlora.ui.data.downloads import Downloads
from orpo_qlora.ui.data.files_table import FilesTable, ListedFile
from orpo_qlora.ui.data.hub_panel import HubPanel
from orpo_qlora.ui.data.token_panel import QuestionInputs, TokenPanel
from orpo_qlora.ui.data.uploads import Progress, StoredSet
from orpo_qlora.ui.parts import cards
from orpo_qlora.ui.parts.buttons import CHOICE_SCRIPT, choice_of
from orpo_qlora.ui.parts.events import QUIET, UNCHECKED
from orpo_qlora.ui.parts.guard import Updates, guarded, guarded_stream

PREVIEW_PAIRS = 50
COLUMNS = ["Row", "Prompt", "Chosen", "Rejected"]
PREVIEW_CHARACTERS = 400
ROW_WIDTH, PLACE_WIDTH = "64px", "200px"
"""Width of the row numbers, and of row numbers with their file."""
TEXT_WIDTHS = ("280px", "380px", "380px")
FILE_TYPES = [".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow"]
PROGRESS = gr.Progress()
"""Gradio replaces this default with the progress bar of the request."""


@dataclass(frozen=True)
class DataTab:
    """The components of the tab; `dataset_id` is what the rest of the page needs."""

    tab: gr.Tab
    dataset_id: gr.Textbox
    upload: gr.File
    examples: dict[str, gr.Button]
    hub: HubPanel
    card: gr.HTML
    """The latest error, with its one-click answers."""
    summary: gr.HTML
    go_on: gr.Button
    files: FilesTable
    columns: ColumnRow
    findings: gr.HTML
    downloads: Downloads
    preview: gr.Dataframe
    tokens: TokenPanel

    @property
    def outputs(self) -> list[Any]:
        """Every component that changes with the chosen file."""
        return [
            *(self.dataset_id, self.card, self.summary, self.go_on),
            *(
                *self.files.outputs,
                *self.columns.outputs,
                self.findings,
                self.downloads.row,
                self.preview,
            ),
        ]


def build() -> DataTab:
    """Return the tab's components, empty."""
    with gr.Tab("Data", id="data", elem_id="tab-data", render_children=True) as tab:
        dataset_id = gr.Textbox(visible="hidden", elem_id="data-id", label="Dataset")
        gr.HTML(
            cards.heading(
                "Preference pairs",
                "CSV, TSV, JSON, JSON Lines, Parquet or Arrow with a prompt and a chosen and a "
                "rejected response per row, ranked responses, or two responses and a verdict; "
                "single turns or whole conversations.",
            )
        )
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                upload = gr.File(
                    label="Your files",
                    file_count="multiple",
                    file_types=FILE_TYPES,
                    type="filepath",
                    height=208,
                    elem_id="data-upload",
                )
            with gr.Column(scale=2, min_width=280, elem_classes="examples"):
                gr.HTML('<p class="label">Or try an example</p>')
                examples = {name: _example_button(name) for name in EXAMPLES}
        hub = hub_panel.build()
        card = _choices_html("data-error", visible=True)
        files = files_table.build()
        summary = _choices_html("data-summary")
        with gr.Row(elem_classes="actions"):
            go_on = gr.Button(
                "Continue to training",
                variant="primary",
                visible=False,
                elem_id="data-continue",
                scale=0,
                min_width=220,
            )
        return DataTab(
            tab=tab,
            dataset_id=dataset_id,
            upload=upload,
            examples=examples,
            hub=hub,
            card=card,
            summary=summary,
            go_on=go_on,
            files=files,
            columns=column_row.build(),
            findings=_choices_html("data-findings"),
            downloads=data_downloads.build(),
            preview=_build_preview(),
            tokens=token_panel.build(),
        )


def _choices_html(elem_id: str, *, visible: bool = False) -> gr.HTML:
    return gr.HTML(visible=visible, elem_id=elem_id, js_on_load=CHOICE_SCRIPT)


def _example_button(name: str) -> gr.Button:
    example = EXAMPLES[name]
    button = gr.Button(example.title, elem_id=f"example-{name}", size="md")
    gr.HTML(f'<p class="quiet">{example.description}</p>')
    return button


def _build_preview() -> gr.Dataframe:
    return gr.Dataframe(
        headers=COLUMNS,
        datatype="str",
        interactive=False,
        wrap=True,
        visible=False,
        max_height=420,
        column_widths=[ROW_WIDTH, *TEXT_WIDTHS],
        label="Preview",
        elem_id="data-preview",
        buttons=["fullscreen"],
    )


def connect(
    tab: DataTab, tabs: gr.Tabs, settings: Mapping[str, Any], after: Callable[[Any], None]
) -> None:
    """Connect the tab's components to their handlers.

    Args:
        tab: the tab's components.
        tabs: the page's tabs, to continue to the Train tab.
        settings: the Train tab's inputs named in `token_panel.SETTINGS`.
        after: takes each Gradio event that changes the data, to attach what depends on the data.
    """

    def changed(event: Any) -> None:  # noqa: ANN401 - gradio's dependency
        after(event)
        refresh_tokens_after(tab, settings, event)

    _connect_choosing(tab, changed)
    _connect_corrections(tab, changed)
    _connect_files(tab, changed)
    data_downloads.connect(tab.downloads, tab.dataset_id, tab.card)
    question = QuestionInputs(tab.dataset_id, tab.tokens.row, settings)
    token_panel.connect(tab.tokens, question, tab.tab, tab.preview)
    tab.go_on.click(lambda: gr.Tabs(selected="train"), None, tabs, **QUIET)


def refresh_tokens_after(tab: DataTab, settings: Mapping[str, Any], event: Any) -> None:  # noqa: ANN401 - gradio's dependency
    """Update the token panel after an event that changes the data."""
    question = QuestionInputs(tab.dataset_id, tab.tokens.row, settings)
    token_panel.refresh_after(tab.tokens, question, event)


def _connect_choosing(tab: DataTab, changed: Callable[[Any], None]) -> None:
    nothing = dataset_updates(tab, "")

    def on_upload(paths: list[str] | None, progress: gr.Progress = PROGRESS) -> Iterator[Updates]:
        return _upload_updates(tab, [Path(path) for path in paths or ()], _reading(progress))

    def on_clear() -> Updates:
        return nothing

    def on_example(name: str) -> Updates:
        path = example_path(name)
        dataset_id = uploads.store_upload(path, path.name)
        return dataset_updates(tab, dataset_id) | {tab.upload: None}

    handler = guarded_stream(tab.card, on_upload, nothing)
    reading = {"show_progress_on": tab.card, "api_visibility": "private"}
    changed(tab.upload.upload(handler, tab.upload, tab.outputs, **reading))
    changed(tab.upload.delete(handler, tab.upload, tab.outputs, **reading))
    changed(tab.upload.clear(guarded(tab.card, on_clear), None, tab.outputs, **QUIET))
    for name, button in tab.examples.items():
        handler = guarded(tab.card, partial(on_example, name), nothing)
        changed(button.click(handler, None, [tab.upload, *tab.outputs], **QUIET))
    _connect_hub(tab, changed)


def _connect_hub(tab: DataTab, changed: Callable[[Any], None]) -> None:
    def on_fetched(ready: str, progress: gr.Progress = PROGRESS) -> Updates:
        dataset_id = ready.partition(" ")[0]
        return {tab.upload: None, **dataset_updates(tab, dataset_id, _reading(progress))}

    def on_ready(ready: gr.Textbox) -> None:
        handler = guarded(tab.card, on_fetched, dataset_updates(tab, ""))
        reading = {"show_progress_on": tab.card, **UNCHECKED}
        changed(ready.change(handler, ready, [tab.upload, *tab.outputs], **reading))

    hub_panel.connect(tab.hub, on_ready)


def _connect_corrections(tab: DataTab, changed: Callable[[Any], None]) -> None:
    row, which = tab.columns, [tab.dataset_id, tab.files.shown]

    def on_choice(
        dataset_id: str, shown: str, event: gr.EventData, progress: gr.Progress = PROGRESS
    ) -> Updates:
        corrections.apply_choice(uploads.shown_file(dataset_id, shown), choice_of(event))
        return dataset_updates(tab, dataset_id, _reading(progress), shown)

    def on_columns(
        dataset_id: str, shown: str, *values: object, progress: gr.Progress = PROGRESS
    ) -> Updates:
        *columns, has_header = values
        file_id = uploads.shown_file(dataset_id, shown)
        corrections.choose_columns(file_id, columns, has_header=bool(has_header))
        return dataset_updates(tab, dataset_id, _reading(progress), shown)

    def on_shape(dataset_id: str, shown: str, shape: object) -> Updates:
        if not dataset_id:
            return {}
        file_id = uploads.shown_file(dataset_id, shown)
        return column_row.shape_updates(row, corrections.proposed_mapping(file_id, shape))

    def on_ranking(
        dataset_id: str, shown: str, setting: object, progress: gr.Progress = PROGRESS
    ) -> Updates:
        corrections.choose_ranking(uploads.shown_file(dataset_id, shown), setting)
        return dataset_updates(tab, dataset_id, _reading(progress), shown)

    def on_labelled(
        dataset_id: str, shown: str, setting: object, progress: gr.Progress = PROGRESS
    ) -> Updates:
        corrections.choose_labelled(uploads.shown_file(dataset_id, shown), setting)
        return dataset_updates(tab, dataset_id, _reading(progress), shown)

    for part in (tab.card, tab.summary, tab.findings):
        handler = guarded(tab.card, on_choice)
        reading = {"show_progress_on": part, "trigger_mode": "once", **UNCHECKED}
        changed(part.click(handler, which, tab.outputs, **reading))
    shape_parts = [*row.parts.values(), *row.values.values(), row.is_reversed]
    handler = guarded(tab.card, on_shape)
    row.shape.input(handler, [*which, row.shape], [*shape_parts, tab.card], **UNCHECKED)
    handler = guarded(tab.card, on_columns)
    reading = {"show_progress_on": row.note, "trigger_mode": "once", **UNCHECKED}
    changed(row.apply.click(handler, [*which, *row.inputs], tab.outputs, **reading))
    handler = guarded(tab.card, on_ranking)
    reading["trigger_mode"] = "always_last"  # arrow keys pass through the settings between
    changed(row.ranking.input(handler, [*which, row.ranking], tab.outputs, **reading))
    handler = guarded(tab.card, on_labelled)
    changed(row.labelled.input(handler, [*which, row.labelled], tab.outputs, **reading))


def _connect_files(tab: DataTab, changed: Callable[[Any], None]) -> None:
    def on_quota(
        dataset_id: str,
        shown: str,
        table: object,
        seed: object,
        progress: gr.Progress = PROGRESS,
    ) -> Updates:
        dataset_id = corrections.choose_quotas(dataset_id, files_table.quotas_of(table), seed)
        return dataset_updates(tab, dataset_id, _reading(progress), shown)

    def on_shown(dataset_id: str, shown: str) -> Updates:
        return dataset_updates(tab, dataset_id, None, shown)

    files, which = tab.files, [tab.dataset_id, tab.files.shown]
    reading = {"show_progress_on": tab.summary, "trigger_mode": "always_last", **UNCHECKED}
    quota = guarded(tab.card, on_quota)
    for part in (files.table, files.seed):
        inputs = [*which, files.table, files.seed]
        changed(part.input(quota, inputs, tab.outputs, **reading))
    files.shown.input(guarded(tab.card, on_shown), which, tab.outputs, **reading)


def _reading(progress: gr.Progress) -> Progress:
    return lambda share: progress(share, desc="Reading")


def _upload_updates(tab: DataTab, paths: Sequence[Path], progress: Progress) -> Iterator[Updates]:
    """Store uploaded files; show the first pairs at once and everything when it has been read."""
    if not paths:
        yield dataset_updates(tab, "")
        return
    first = _first_pairs(paths[0])
    if first:
        whole = "file" if len(paths) == 1 else f"{len(paths)} files"
        yield {
            **dataset_updates(tab, ""),
            tab.card: cards.busy(f"Reading and checking the whole {whole} …"),
            tab.preview: _preview(first, f"First {plural(len(first), 'pair')}"),
        }
    dataset_id = uploads.store_files(paths, progress)
    yield dataset_updates(tab, dataset_id)


def _first_pairs(path: Path) -> Sequence[PreferencePair]:
    try:
        return preview(path, path.name)[1]
    except DataError:
        return ()  # reading the whole file reports the error


def dataset_updates(
    tab: DataTab, dataset_id: str, progress: Progress | None = None, shown: str = ""
) -> Updates:
    """Return what the tab shows for a stored dataset; everything hidden for an empty id.

    Args:
        tab: the components.
        dataset_id: a file, or several.
        progress: of reading.
        shown: id of the file to show of several; empty for all of them.
    """
    if not dataset_id:
        return {tab.dataset_id: "", **_hidden(tab)}
    several = uploads.set_of(dataset_id)
    if several is not None:
        return _set_updates(tab, dataset_id, several, progress, shown)
    try:
        dataset = uploads.open_upload(dataset_id, progress)
    except DataError as error:
        if not uploads.is_stored(dataset_id):
            raise
        return {**_question_updates(tab, dataset_id, error), tab.dataset_id: dataset_id}
    return {
        **_summary_updates(tab, dataset),
        **files_table.single_updates(tab.files, dataset.report),
        tab.dataset_id: dataset_id,
    }


def _set_updates(
    tab: DataTab, dataset_id: str, several: StoredSet, progress: Progress | None, shown: str
) -> Updates:
    """Return what the tab shows for several files, or for one of them."""
    ids = [file.id for file in several.files]
    shown = ids[0] if len(ids) == 1 else shown if shown in ids else ""
    try:
        dataset = uploads.open_upload(dataset_id, progress)
    except DataError as error:
        asking = _first_unusable(ids)
        listed = [
            ListedFile(uploads.source_of(file.id), file.id, file.quota, _pairs_in(file.id))
            for file in several.files
        ]
        return {
            **_question_updates(tab, asking, error),
            **files_table.question_updates(tab.files, listed, asking, several.sample_seed),
            tab.dataset_id: dataset_id,
        }
    return {
        **_summary_updates(tab, dataset, ids.index(shown) if shown else None),
        **files_table.set_updates(tab.files, dataset.report, shown, several.sample_seed),
        tab.dataset_id: dataset_id,
    }


def _first_unusable(ids: Sequence[str]) -> str:
    for file_id in ids:
        try:
            uploads.open_upload(file_id)
        except DataError:
            return file_id
    return ids[0]


def _pairs_in(file_id: str) -> int | None:
    """Return how many pairs a file has, None if it cannot be used yet."""
    try:
        return len(uploads.open_upload(file_id).pairs)
    except DataError:
        return None


def _hidden(tab: DataTab) -> Updates:
    parts = [tab.summary, tab.preview, tab.go_on, tab.findings, tab.downloads.row]
    # gr.update, not components: this also runs while the page is built, which would add them to it.
    hidden = {part: gr.update(visible=False) for part in [*parts, tab.columns.fold]}
    return {**hidden, **files_table.hidden_updates(tab.files)}


def _question_updates(tab: DataTab, file_id: str, error: DataError) -> Updates:
    """Return what the tab shows for a stored file that cannot be used as it is read now."""
    choices = uploads.choices_of(file_id)
    updates: Updates = {
        **_hidden(tab),
        tab.card: findings_view.question_card(error, choices),
    }
    if isinstance(error, NeedsColumns):
        question = ColumnQuestion(
            *(error.columns, error.found, choices.mapping, choices.has_header, error.has_header)
        )
        updates |= column_row.question_updates(tab.columns, question)
    return updates


def _summary_updates(tab: DataTab, dataset: PreferenceData, place: int | None = None) -> Updates:
    """Return the summary and the first pairs of a dataset, or of one file of it by place."""
    report, first, count = dataset.report, 0, len(dataset.pairs)
    if place is not None:
        taken = [part.pairs_taken for part in report.files]
        first, count, report = sum(taken[:place]), taken[place], report.files[place].summary
    # The summary of a single file with a share or cap states what is taken.
    summary = dataset.report if len(dataset.report.files) == 1 else report
    pairs = dataset.pairs[first : first + min(PREVIEW_PAIRS, count)]
    label = f"First {len(pairs)} of {plural(count, report.noun)}"
    columns = column_row.summary_updates(tab.columns, report)
    if report.files:
        columns[tab.columns.fold] = gr.Accordion(visible=False)
    return {
        **files_table.hidden_updates(tab.files),
        tab.summary: gr.HTML(findings_view.summary_card(summary), visible=True),
        tab.findings: gr.HTML(findings_view.findings_list(report), visible=True),
        tab.preview: _preview(pairs, label, dataset.report),
        tab.go_on: gr.Button(visible=True),
        tab.downloads.row: gr.Row(visible=True),
        **columns,
    }


def _preview(
    pairs: Sequence[PreferencePair], label: str, report: DataSummary | None = None
) -> gr.Dataframe:
    rows = [
        [
            _row_cell(pair.row, report),
            *(_cut(text) for text in (_prompt(pair), *_responses(pair))),
        ]
        for pair in pairs
    ]
    row_width = PLACE_WIDTH if report and len(report.files) > 1 else ROW_WIDTH
    widths: list[str | int] = [row_width, *TEXT_WIDTHS]
    return gr.Dataframe(rows, visible=True, label=label, column_widths=widths)


def _row_cell(row: int, report: DataSummary | None) -> str:
    """Return the row of a pair; of several files with the file, see `token_panel`."""
    is_several = report is not None and len(report.files) > 1
    return f"{row} · {report.place_of(row)}" if report and is_several else str(row)


def _prompt(pair: PreferencePair) -> str:
    if len(pair.conversation) == 1:
        return pair.prompt
    return "\n".join(f"{turn.role}: {turn.text}" for turn in pair.conversation)


def _responses(pair: PreferencePair) -> list[str]:
    return [response.text for response in pair.responses]


def _cut(text: str) -> str:
    return text if len(text) <= PREVIEW_CHARACTERS else text[:PREVIEW_CHARACTERS] + " …"
