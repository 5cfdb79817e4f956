"""Model files for other programs: size and time before, progress, checks and commands after."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from orpo_qlora.data.wording import in_bytes
from orpo_qlora.export import request as export_request
from orpo_qlora.export.formats import FORMATS, Format
from orpo_qlora.export.gguf import llama_cpp
from orpo_qlora.export.request import Export
from orpo_qlora.runs import store
from orpo_qlora.runs.store import Run, RunPaths
from orpo_qlora.ui.parts import cards
from orpo_qlora.ui.parts.guard import Updates
from orpo_qlora.ui.runs.snapshot import Snapshot

HEAD = ("Format", "For", "Size", "Time", "State")
UNKNOWN = "unknown"
DOWNLOAD = "The first GGUF export downloads llama.cpp's converter from PyPI (77 MB)."
Connect = Callable[[gr.Button, Callable[[RunPaths], object]], None]


@dataclass(frozen=True)
class ModelExport:
    """The table of formats, a button for each, and the commands of those that were made."""

    table: gr.HTML
    buttons: tuple[gr.Button, ...]
    commands: gr.Textbox

    @property
    def outputs(self) -> list[Any]:
        """What changes while a run is shown."""
        return [self.table, *self.buttons, self.commands]


def build_model_export() -> ModelExport:
    """Return the components."""
    table = gr.HTML(elem_id="run-export-formats")
    with gr.Row(elem_classes="actions"):
        buttons = tuple(
            gr.Button(
                f"Make {one.label}",
                size="md",
                scale=0,
                min_width=180,
                elem_id=f"run-export-{one.id}",
            )
            for one in FORMATS
        )
    commands = gr.Textbox(
        label="Open in other programs",
        info="Run these in a terminal.",
        interactive=False,
        visible=False,
        lines=2,
        buttons=["copy"],
        elem_id="run-export-commands",
        elem_classes="log",
    )
    return ModelExport(table, buttons, commands)


def model_export_updates(parts: ModelExport, now: Snapshot) -> Updates:
    """Return the formats, what is made and what was checked."""
    known = now.outcome.exports
    if not known:
        return {parts.table: "", parts.commands: gr.Textbox(visible=False)}
    is_busy = any(export.state.is_busy for export in known.values())
    lines = [
        command for export in known.values() if export.result for command in export.result.commands
    ]
    updates: Updates = {
        parts.table: _table(now.run, known),
        parts.commands: gr.Textbox(value="\n".join(lines), visible=bool(lines)),
    }
    for one, button in zip(FORMATS, parts.buttons, strict=True):
        is_made = known[one.id].result is not None
        updates[button] = gr.Button(interactive=not is_busy and not is_made)
    return updates


def connect_model_export(parts: ModelExport, connect: Connect) -> None:
    """Connect the buttons; `connect` runs an action on the run that is shown."""
    for one, button in zip(FORMATS, parts.buttons, strict=True):
        connect(button, partial(make, one))


def make(one: Format, paths: RunPaths) -> None:
    """Start making a format of a run, also one that failed before.

    Raises:
        InputError: it cannot be made.
        Busy: a run is at work.
    """
    export_request.JOB.ask(one.request(store.read_run(paths)), again=True)


def _table(run: Run, known: Mapping[str, Export]) -> str:
    head = "".join(f"<th>{title}</th>" for title in HEAD)
    rows = "".join(_row(run, one, known[one.id]) for one in FORMATS)
    note = "" if llama_cpp.is_fetched() else f'<p class="quiet">{DOWNLOAD}</p>'
    return (
        f'<table class="settings"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{note}'
    )


def _row(run: Run, one: Format, export: Export) -> str:
    size, seconds = one.bytes(run), one.seconds(run)
    made = export.result
    texts = (
        one.label,
        one.use,
        in_bytes(made.size_bytes if made else size) if made or size else UNKNOWN,
        f"about {math.ceil(seconds / 60):,} min" if seconds else UNKNOWN,
    )
    pairs = zip(HEAD, (*map(html.escape, texts), _state(export)), strict=True)
    cells = "".join(f'<td data-title="{title}">{text}</td>' for title, text in pairs)
    return f"<tr>{cells}</tr>"


def _state(export: Export) -> str:
    state = export.state
    if state.is_busy:
        share = f" ({state.done:,} of {state.total:,})" if state.total else ""
        return cards.busy(f"{state.phase}{share} …")
    if export.result is not None:
        lines = (export.result.target, *export.result.checks)
        return "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    if state.error is not None:
        return cards.error_card(state.error.message, hint=state.error.hint)
    return "not made"
