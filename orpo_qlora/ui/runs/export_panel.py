"""Export of a run that has ended: adapter and reports as downloads, model files.

Nothing is served from the home: a download is made in the page's temporary folder, named by the
run's id; model files are written to the home's `exports/` and stay there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from orpo_qlora.export import bundle
from orpo_qlora.export.reports import html_report
from orpo_qlora.runs import store
from orpo_qlora.runs.store import Run
from orpo_qlora.ui.parts import downloads
from orpo_qlora.ui.parts.events import QUIET, UNCHECKED
from orpo_qlora.ui.parts.guard import Updates, guarded
from orpo_qlora.ui.runs.model_export import (
    ModelExport,
    build_model_export,
    model_export_updates,
)
from orpo_qlora.ui.runs.snapshot import Snapshot

ABOUT = (
    "The adapter zip holds safetensors, a model card with the numbers and the code to load it, "
    "settings, and the SHA-256 of every file. A report is one page, with the texts of the pairs "
    "that flipped."
)


@dataclass(frozen=True)
class Kind:
    """One export format."""

    id: str
    label: str
    ending: str
    write: Callable[[Run, Path], object]


KINDS = (
    Kind("adapter", "Adapter (zip)", ".zip", bundle.export_adapter),
    Kind("html", "Report (HTML)", ".html", html_report.write_html),
    Kind("markdown", "Report (Markdown)", ".md", html_report.write_markdown),
)


@dataclass(frozen=True)
class ExportPanel:
    """The components: a button for each format, and the hidden file that is downloaded."""

    view: gr.Column
    buttons: tuple[gr.Button, ...]
    file: gr.File
    model: ModelExport

    @property
    def outputs(self) -> list[Any]:
        """What changes while a run is shown."""
        return [self.view, *self.model.outputs]


def build_export_panel() -> ExportPanel:
    """Return the components, hidden until a run has ended with an adapter."""
    file = gr.File(
        visible="hidden", label="Download", interactive=False, elem_classes="download-target"
    )
    with gr.Column(visible=False, elem_id="run-export") as view:
        gr.HTML(f'<p class="quiet">{ABOUT}</p>')
        with gr.Row(elem_classes="actions"):
            buttons = tuple(
                gr.Button(
                    f"Download: {kind.label}",
                    size="md",
                    scale=0,
                    min_width=210,
                    elem_id=f"run-export-{kind.id}",
                )
                for kind in KINDS
            )
        model = build_model_export()
    return ExportPanel(view, buttons, file, model)


def export_updates(parts: ExportPanel, now: Snapshot) -> Updates:
    """Show the panel for a run with a final adapter."""
    is_there = now.outcome.is_exportable
    return {
        parts.view: gr.Column(visible=is_there),
        **model_export_updates(parts.model, now),
    }


def make_file(run_id: str, kind: Kind) -> Path:
    """Write an export of a run and return its path.

    Raises:
        OrpoQloraError: as `kind.write` does.
    """
    run = store.read_run(store.paths_of(run_id))
    path = downloads.fresh_folder() / f"{bundle.name_of(run)}{kind.ending}"
    kind.write(run, path)
    return path


def connect_export_panel(parts: ExportPanel, picker: gr.Textbox, card: gr.HTML) -> None:
    """Connect the buttons; errors appear in `card`."""

    def on_download(kind: Kind, run_id: str) -> Updates:
        return {parts.file: str(make_file(run_id, kind))}

    for kind, button in zip(KINDS, parts.buttons, strict=True):
        # Many megabytes take a while: queued, with Gradio's spinner.
        handler = guarded(card, partial(on_download, kind))
        made = [card, parts.file]
        event = button.click(handler, picker, made, trigger_mode="once", **UNCHECKED)
        event.success(None, parts.file, None, js=downloads.SAVE, **QUIET)
