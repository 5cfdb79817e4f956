"""The Data tab: choose preference pairs, by upload or example, and see what they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from orpo_qlora.data.examples import EXAMPLES, example_path
from orpo_qlora.ui import cards, datasets, token_panel
from orpo_qlora.ui.guard import Updates
from orpo_qlora.ui.token_panel import TokenPanel

PREVIEW_PAIRS = 50
COLUMNS = ["Row", "Prompt", "Chosen", "Rejected"]
PREVIEW_CHARACTERS = 400


@dataclass(frozen=True)
class DataTab:
    """The components of the tab; `dataset_id` is what the rest of the page needs."""

    tab: gr.Tab
    dataset_id: gr.Textbox
    upload: gr.File
    examples: dict[str, gr.Button]
    card: gr.HTML
    account: gr.HTML
    preview: gr.Dataframe
    go_on: gr.Button
    tokens: TokenPanel

    @property
    def outputs(self) -> list[Any]:
        """Every component that changes with the choice."""
        return [self.dataset_id, self.card, self.account, self.preview, self.go_on]


def build_data_tab() -> DataTab:
    """Return the tab's components, empty."""
    with gr.Tab("Data", id="data", elem_id="tab-data", render_children=True) as tab:
        dataset_id = gr.Textbox(visible="hidden", elem_id="data-id", label="Dataset")
        gr.HTML(
            cards.heading(
                "Preference pairs",
                "A CSV with the columns prompt, chosen and rejected: for each prompt, the answer "
                "people preferred and the one they did not.",
            )
        )
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                upload = gr.File(
                    label="Your CSV file",
                    file_types=[".csv", ".tsv"],
                    type="filepath",
                    height=176,
                    elem_id="data-upload",
                )
            with gr.Column(scale=2, min_width=280, elem_classes="examples"):
                gr.HTML('<p class="label">Or try an example</p>')
                examples = {name: _example_button(name) for name in EXAMPLES}
        card = gr.HTML(elem_id="data-error")
        account = gr.HTML(visible=False, elem_id="data-account")
        with gr.Row(elem_classes="actions"):
            go_on = gr.Button(
                "Continue to training",
                variant="primary",
                visible=False,
                elem_id="data-continue",
                scale=0,
                min_width=220,
            )
        preview = gr.Dataframe(
            headers=COLUMNS,
            datatype="str",
            interactive=False,
            wrap=True,
            visible=False,
            max_height=520,
            column_widths=["64px", "280px", "380px", "380px"],
            label="Preview",
            elem_id="data-preview",
            buttons=["fullscreen"],
        )
        tokens = token_panel.build_token_panel()
    return DataTab(tab, dataset_id, upload, examples, card, account, preview, go_on, tokens)


def _example_button(name: str) -> gr.Button:
    example = EXAMPLES[name]
    button = gr.Button(example.title, elem_id=f"example-{name}", size="md")
    gr.HTML(f'<p class="quiet">{example.description}</p>')
    return button


def upload_updates(tab: DataTab, path: str | None) -> Updates:
    """Keep an uploaded file and show it."""
    if not path:
        return dataset_updates(tab, "")
    return dataset_updates(tab, datasets.keep_dataset(Path(path), Path(path).name))


def example_updates(tab: DataTab, name: str) -> Updates:
    """Keep a packaged example and show it."""
    path = example_path(name)
    return dataset_updates(tab, datasets.keep_dataset(path, path.name)) | {tab.upload: None}


def dataset_updates(tab: DataTab, dataset_id: str) -> Updates:
    """Return what the tab shows for a kept file; nothing for no file."""
    if not dataset_id:
        hidden = {part: gr.update(visible=False) for part in (tab.account, tab.preview, tab.go_on)}
        return {tab.dataset_id: "", **hidden}
    dataset = datasets.open_dataset(dataset_id)
    rows = [
        [str(pair.row), *(_cut(text) for text in (pair.prompt, pair.chosen, pair.rejected))]
        for pair in dataset.pairs[:PREVIEW_PAIRS]
    ]
    label = f"First {len(rows)} of {len(dataset.pairs):,} pairs"
    account = cards.account(dataset.report.source, dataset.report.sentences())
    return {
        tab.dataset_id: dataset_id,
        tab.account: gr.HTML(account, visible=True),
        tab.preview: gr.Dataframe(rows, visible=True, label=label),
        tab.go_on: gr.Button(visible=True),
    }


def _cut(text: str) -> str:
    return text if len(text) <= PREVIEW_CHARACTERS else text[:PREVIEW_CHARACTERS] + " …"
