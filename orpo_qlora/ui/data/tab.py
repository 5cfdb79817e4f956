"""The Data tab: choose preference pairs by upload or example, and check what was read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from orpo_qlora.data.examples import EXAMPLES, example_path
from orpo_qlora.data.pairs import PreferenceData, PreferencePair, preview
from orpo_qlora.data.wording import plural
from orpo_qlora.errors import DataError, NeedsColumns
from orpo_qlora.ui.data import (
    column_row,
    corrections,
    findings_view,
    hub_panel,
    token_panel,
    uploads,
)
from orpo_qlora.ui.data import downloads as data_downloads
from orpo_qlora.ui.data.column_row import ColumnQuestion, ColumnRow
from orpo_qlora.ui.data.downloads import Downloads
from orpo_qlora.ui.data.hub_panel import HubPanel
from orpo_qlora.ui.data.token_panel import QuestionInputs, TokenPanel
from orpo_qlora.ui.data.uploads import Progress
from orpo_qlora.ui.parts import cards
from orpo_qlora.ui.parts.buttons import CHOICE_SCRIPT, choice_of
from orpo_qlora.ui.parts.events import QUIET, UNCHECKED
from orpo_qlora.ui.parts.guard import Updates, guarded, guarded_stream

PREVIEW_PAIRS = 50
COLUMNS = ["Row", "Prompt", "Chosen", "Rejected"]
PREVIEW_CHARACTERS = 400
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
            *(*self.columns.outputs, self.findings, self.downloads.row, self.preview),
        ]


def build() -> DataTab:
    """Return the tab's components, empty."""
    with gr.Tab("Data", id="data", elem_id="tab-data", render_children=True) as tab:
        dataset_id = gr.Textbox(visible="hidden", elem_id="data-id", label="Dataset")
        gr.HTML(
            cards.heading(
                "Preference pairs",
                "CSV, TSV, JSON, JSON Lines, Parquet or Arrow with a prompt, a chosen and a "
                "rejected response per row; single turns or whole conversations.",
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
        hub = hub_panel.build()
        card = _choices_html("data-error", visible=True)
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
        column_widths=["64px", "280px", "380px", "380px"],
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

    def on_upload(path: str | None, progress: gr.Progress = PROGRESS) -> Iterator[Updates]:
        return _upload_updates(tab, path, _reading(progress))

    def on_clear() -> Updates:
        return nothing

    def on_example(name: str) -> Updates:
        path = example_path(name)
        dataset_id = uploads.store_upload(path, path.name)
        return dataset_updates(tab, dataset_id) | {tab.upload: None}

    handler = guarded_stream(tab.card, on_upload, nothing)
    reading = {"show_progress_on": tab.card, "api_visibility": "private"}
    changed(tab.upload.upload(handler, tab.upload, tab.outputs, **reading))
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
    row = tab.columns

    def on_choice(
        dataset_id: str, event: gr.EventData, progress: gr.Progress = PROGRESS
    ) -> Updates:
        corrections.apply_choice(dataset_id, choice_of(event))
        return dataset_updates(tab, dataset_id, _reading(progress))

    def on_columns(dataset_id: str, *values: object, progress: gr.Progress = PROGRESS) -> Updates:
        *columns, has_header = values
        corrections.choose_columns(dataset_id, columns, has_header=bool(has_header))
        return dataset_updates(tab, dataset_id, _reading(progress))

    def on_ranking(dataset_id: str, setting: object, progress: gr.Progress = PROGRESS) -> Updates:
        corrections.choose_ranking(dataset_id, setting)
        return dataset_updates(tab, dataset_id, _reading(progress))

    for part in (tab.card, tab.summary, tab.findings):
        handler = guarded(tab.card, on_choice)
        reading = {"show_progress_on": part, "trigger_mode": "once", **UNCHECKED}
        changed(part.click(handler, tab.dataset_id, tab.outputs, **reading))
    handler = guarded(tab.card, on_columns)
    reading = {"show_progress_on": row.note, "trigger_mode": "once", **UNCHECKED}
    changed(row.apply.click(handler, [tab.dataset_id, *row.inputs], tab.outputs, **reading))
    handler = guarded(tab.card, on_ranking)
    reading["trigger_mode"] = "always_last"  # arrow keys pass through the settings between
    changed(row.ranking.input(handler, [tab.dataset_id, row.ranking], tab.outputs, **reading))


def _reading(progress: gr.Progress) -> Progress:
    return lambda share: progress(share, desc="Reading")


def _upload_updates(tab: DataTab, path: str | None, progress: Progress) -> Iterator[Updates]:
    """Store an uploaded file; show its first pairs at once and all of it when it has been read."""
    if not path:
        yield dataset_updates(tab, "")
        return
    first = _first_pairs(Path(path))
    if first:
        yield {
            **dataset_updates(tab, ""),
            tab.card: cards.busy("Reading and checking the whole file …"),
            tab.preview: _preview(first, f"First {plural(len(first), 'pair')}"),
        }
    dataset_id = uploads.store_upload(Path(path), Path(path).name, progress)
    yield dataset_updates(tab, dataset_id)


def _first_pairs(path: Path) -> Sequence[PreferencePair]:
    try:
        return preview(path, path.name)[1]
    except DataError:
        return ()  # reading the whole file reports the error


def dataset_updates(tab: DataTab, dataset_id: str, progress: Progress | None = None) -> Updates:
    """Return what the tab shows for a stored file; everything hidden for an empty id."""
    if not dataset_id:
        return {tab.dataset_id: "", **_hidden(tab)}
    try:
        dataset = uploads.open_upload(dataset_id, progress)
    except DataError as error:
        if not uploads.is_stored(dataset_id):
            raise
        return _question_updates(tab, dataset_id, error)
    return _summary_updates(tab, dataset_id, dataset)


def _hidden(tab: DataTab) -> Updates:
    parts = [tab.summary, tab.preview, tab.go_on, tab.findings, tab.downloads.row]
    # gr.update, not components: this also runs while the page is built, which would add them to it.
    return {part: gr.update(visible=False) for part in [*parts, tab.columns.fold]}


def _question_updates(tab: DataTab, dataset_id: str, error: DataError) -> Updates:
    """Return what the tab shows for a stored file that cannot be used as it is read now."""
    choices = uploads.choices_of(dataset_id)
    updates: Updates = {
        tab.dataset_id: dataset_id,
        **_hidden(tab),
        tab.card: findings_view.question_card(error, choices),
    }
    if isinstance(error, NeedsColumns):
        question = ColumnQuestion(error.columns, error.found, choices.mapping, choices.has_header)
        updates |= column_row.question_updates(tab.columns, question)
    return updates


def _summary_updates(tab: DataTab, dataset_id: str, dataset: PreferenceData) -> Updates:
    report = dataset.report
    pairs = dataset.pairs[:PREVIEW_PAIRS]
    label = f"First {len(pairs)} of {len(dataset.pairs):,} pairs"
    return {
        tab.dataset_id: dataset_id,
        tab.summary: gr.HTML(findings_view.summary_card(report), visible=True),
        tab.findings: gr.HTML(findings_view.findings_list(report), visible=True),
        tab.preview: _preview(pairs, label),
        tab.go_on: gr.Button(visible=True),
        tab.downloads.row: gr.Row(visible=True),
        **column_row.summary_updates(tab.columns, report),
    }


def _preview(pairs: Sequence[PreferencePair], label: str) -> gr.Dataframe:
    rows = [
        [str(pair.row), *(_cut(text) for text in (_prompt(pair), pair.chosen, pair.rejected))]
        for pair in pairs
    ]
    return gr.Dataframe(rows, visible=True, label=label)


def _prompt(pair: PreferencePair) -> str:
    if not pair.earlier:
        return pair.prompt
    return "\n".join(f"{turn.role}: {turn.content}" for turn in pair.conversation)


def _cut(text: str) -> str:
    return text if len(text) <= PREVIEW_CHARACTERS else text[:PREVIEW_CHARACTERS] + " …"
