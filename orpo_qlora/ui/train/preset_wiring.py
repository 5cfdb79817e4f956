"""Joins the presets' components to their handlers. Floor 5."""

from __future__ import annotations

from typing import Any

import gradio as gr

from orpo_qlora.ui.parts import downloads, theme
from orpo_qlora.ui.parts.events import QUIET
from orpo_qlora.ui.parts.guard import Updates, guarded
from orpo_qlora.ui.train import preset_panel
from orpo_qlora.ui.train.form import Form
from orpo_qlora.ui.train.preset_panel import PresetPanel


def wire_preset_panel(panel: PresetPanel, settings: Form, edits: list[Any]) -> list[Any]:
    """Join the presets to the page.

    Args:
        panel: the components.
        settings: the form they fill.
        edits: events after which a setting may differ from the preset.

    Returns:
        The events that fill the form without an edit.
    """
    filled = [*_wire_filling(panel, settings), _wire_resetting(panel, settings)]
    _wire_keeping(panel, settings)

    def on_edit(origin: str, title: str, *values: object) -> Updates:
        return preset_panel.mark(panel, (origin, title), values)

    def on_open() -> Updates:
        return preset_panel.known(panel)

    known = [panel.origin, panel.title, *settings.inputs]
    # Not the form itself: gradio takes what it is sent, even nothing, for another edit.
    shown = [panel.changed, panel.marked]
    handler = guarded(panel.changed, on_edit)
    gr.on(edits, handler, known, shown, trigger_mode="always_last", **QUIET)
    filled[-1].then(handler, known, shown, **QUIET)
    panel.origin.change(handler, known, shown, **QUIET)
    panel.marked.change(None, panel.marked, None, js=theme.MARK, **QUIET)
    gr.on(None, guarded(panel.card, on_open), None, [panel.card, panel.picker], **QUIET)
    return filled


def _wire_filling(panel: PresetPanel, settings: Form) -> list[Any]:
    def on_choose(name: str | None) -> Updates:
        return preset_panel.choose(panel, settings, name)

    def on_take_in(path: str | None) -> Updates:
        return preset_panel.take_in(panel, settings, path)

    parts = [*panel.outputs, panel.changed, panel.marked, *settings.inputs]
    handler = guarded(panel.card, on_choose)
    chosen = panel.picker.input(handler, panel.picker, parts, **QUIET)
    handler = guarded(panel.card, on_take_in)
    # Checked by gradio: a path must be one that was uploaded.
    reading = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    return [chosen, panel.take_in.upload(handler, panel.take_in, parts, **reading)]


def _wire_resetting(panel: PresetPanel, settings: Form) -> Any:  # noqa: ANN401 - a dependency
    def on_reset(event: gr.EventData, origin: str) -> Updates:
        choice = str(event._data.get("choice", ""))
        return preset_panel.reset(settings, choice, origin)

    handler = guarded(panel.card, on_reset)
    return panel.changed.click(handler, panel.origin, [panel.card, *settings.inputs], **QUIET)


def _wire_keeping(panel: PresetPanel, settings: Form) -> None:
    def on_save(name: str, *values: object) -> Updates:
        return preset_panel.save(panel, name, values)

    def on_delete(name: str | None) -> Updates:
        return preset_panel.delete(panel, name)

    def on_export(name: str, picked: str | None, *values: object) -> Updates:
        return preset_panel.export(panel, name, picked, values)

    handler = guarded(panel.card, on_save)
    panel.save.click(
        handler, [panel.name, *settings.inputs], panel.outputs, trigger_mode="once", **QUIET
    )
    handler = guarded(panel.card, on_delete)
    panel.delete.click(handler, panel.picker, panel.outputs, trigger_mode="once", **QUIET)
    handler = guarded(panel.card, on_export)
    made = panel.export.click(
        handler,
        [panel.name, panel.picker, *settings.inputs],
        [panel.card, panel.file],
        trigger_mode="once",
        **QUIET,
    )
    made.success(None, panel.file, None, js=downloads.SAVE, **QUIET)
