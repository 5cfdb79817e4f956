"""The Data tab's downloads: the cleaned pairs as CSV or JSON Lines, and the data summary."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import gradio as gr

from orpo_qlora.data.export import write_clean, write_report
from orpo_qlora.ui.data import uploads
from orpo_qlora.ui.parts.downloads import SAVE, fresh_folder, plain_name
from orpo_qlora.ui.parts.events import QUIET, UNCHECKED
from orpo_qlora.ui.parts.guard import Updates, guarded

Kind = Literal["csv", "jsonl", "report"]
LABELS: dict[Kind, str] = {
    "csv": "Pairs as CSV",
    "jsonl": "Pairs as JSON Lines",
    "report": "Report",
}
PROGRESS = gr.Progress()
"""Gradio replaces this default with the progress bar of the request."""


@dataclass(frozen=True)
class Downloads:
    """A button for each kind of file, and the hidden component that carries it to the browser."""

    row: gr.Row
    buttons: dict[Kind, gr.Button]
    file: gr.File


def build() -> Downloads:
    """Return the components, hidden until there are pairs."""
    with gr.Row(visible=False, elem_classes="actions", elem_id="data-downloads") as row:
        gr.HTML('<p class="label">Download</p>', elem_id="data-downloads-label")
        buttons = {
            kind: gr.Button(
                label, size="md", scale=0, min_width=190, elem_id=f"data-download-{kind}"
            )
            for kind, label in LABELS.items()
        }
    file = gr.File(visible="hidden", label="Download", interactive=False)
    return Downloads(row=row, buttons=buttons, file=file)


def connect(downloads: Downloads, dataset_id: gr.Textbox, card: gr.HTML) -> None:
    """Connect the buttons; errors appear in `card`."""

    def on_download(kind: Kind, dataset_id: str, progress: gr.Progress = PROGRESS) -> Updates:
        progress(0, desc="Writing the file")
        return {downloads.file: str(make_file(dataset_id, kind))}

    for kind, button in downloads.buttons.items():
        # Queued, with a progress bar: a million pairs take a while to write.
        handler = guarded(card, partial(on_download, kind))
        outputs = [card, downloads.file]
        event = button.click(handler, dataset_id, outputs, trigger_mode="once", **UNCHECKED)
        event.success(None, downloads.file, None, js=SAVE, **QUIET)


def make_file(dataset_id: str, kind: Kind) -> Path:
    """Write one kind of file about an upload and return its path.

    Raises:
        InputError: the upload is no longer stored, or a text cannot be written as CSV.
        DiskFull: nothing is left behind.
    """
    dataset = uploads.open_upload(dataset_id)
    stem = plain_name(dataset.report.source)
    folder = fresh_folder()
    if kind == "report":
        path = folder / f"{stem}-report.json"
        write_report(path, dataset.report)
    else:
        path = folder / f"{stem}-cleaned.{kind}"
        write_clean(path, dataset.pairs)
    return path
