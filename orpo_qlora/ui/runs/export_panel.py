"""What a run that has ended can be taken away as: a row of downloads. Floor 5; page process.

As with the Data tab, nothing is served from the home: the file is made in the page's own temporary
folder, named by the run's id.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from orpo_qlora import storage
from orpo_qlora.export import bundle, html_report
from orpo_qlora.runs import store
from orpo_qlora.runs.store import Run
from orpo_qlora.ui.parts import cards, downloads
from orpo_qlora.ui.parts.events import QUIET, UNCHECKED
from orpo_qlora.ui.parts.guard import Updates, guarded


@dataclass(frozen=True)
class Kind:
    """One thing to take away."""

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
    """The components: a button for each kind, and where the made file passes through."""

    view: gr.Column
    buttons: tuple[gr.Button, ...]
    file: gr.File
    merge: gr.Textbox
    """The command that merges base and adapter."""

    @property
    def outputs(self) -> list[Any]:
        """What changes while a run is watched."""
        return [self.view, self.merge]


def build_take_home() -> ExportPanel:
    """Return the components, hidden until a run has ended with an adapter."""
    with gr.Column(visible=False, elem_id="take-home") as view:
        gr.HTML(
            cards.heading(
                "Take it home",
                "The adapter as a zip: safetensors, model card with the numbers and the code to "
                "load it, settings, SHA-256 of every file. The run on one page, with the texts of "
                "the pairs that flipped.",
            )
        )
        with gr.Row(elem_classes="actions"):
            buttons = tuple(
                gr.Button(
                    f"Download: {kind.label}",
                    size="md",
                    scale=0,
                    min_width=210,
                    elem_id=f"take-home-{kind.id}",
                )
                for kind in KINDS
            )
        file = gr.File(visible="hidden", label="Download", interactive=False)
        merge = gr.Textbox(
            label="Base and adapter as one model",
            info="Gigabytes, for programs that load no adapters: a folder of safetensors, compared "
            "with base and adapter once it is written. Run this in a terminal.",
            interactive=False,
            buttons=["copy"],
            elem_id="take-home-merge",
            elem_classes="log",
        )
    return ExportPanel(view, buttons, file, merge)


def take_home_updates(parts: ExportPanel, run: Run) -> Updates:
    """Return whether there is something to take away."""
    is_there = bundle.is_exportable(run)
    return {
        parts.view: gr.Column(visible=is_there),
        parts.merge: merge_command(run) if is_there else "",
    }


def merge_command(run: Run) -> str:
    """Return what to type in a terminal for the merged model; it finds the same home."""
    home = os.environ.get(storage.HOME_VARIABLE)
    where = f"{storage.HOME_VARIABLE}={shlex.quote(home)} " if home else ""
    folder = shlex.quote(f"{bundle.name_of(run)}-merged")
    return f"{where}orpo-qlora export {run.id} --merged {folder}"


def make_file(run_id: str, kind: Kind) -> Path:
    """Write what was asked for about a run, and return where.

    Raises:
        OrpoQloraError: as `kind.write` does.
    """
    run = store.read_run(store.paths_of(run_id))
    path = downloads.fresh_folder() / f"{bundle.name_of(run)}{kind.ending}"
    kind.write(run, path)
    return path


def wire_take_home(parts: ExportPanel, picker: gr.Dropdown, card: gr.HTML) -> None:
    """Join the buttons to what they make; errors appear in `card`."""

    def on_download(kind: Kind, run_id: str) -> Updates:
        return {parts.file: str(make_file(run_id, kind))}

    for kind, button in zip(KINDS, parts.buttons, strict=True):
        # Many megabytes take a while: queued, with Gradio's own spinner.
        handler = guarded(card, partial(on_download, kind))
        made = [card, parts.file]
        event = button.click(handler, picker, made, trigger_mode="once", **UNCHECKED)
        event.success(None, parts.file, None, js=downloads.SAVE, **QUIET)
