"""The choice of the adapter that a run starts from, in the Train tab."""

from __future__ import annotations

from typing import Any

import gradio as gr

from orpo_qlora.config import build_config
from orpo_qlora.runs import store
from orpo_qlora.runs.process.start import with_start
from orpo_qlora.ui.parts import form
from orpo_qlora.ui.parts.events import QUIET
from orpo_qlora.ui.parts.form import Form
from orpo_qlora.ui.parts.guard import Updates, guarded

NEW_ADAPTER = "A new adapter"
DECIDED = (
    *("model", "revision", "chat_template", "quantization"),
    *("lora_r", "lora_alpha", "lora_targets"),
)
"""Settings that the adapter decides."""


def choices() -> list[tuple[str, str]]:
    """Return the adapters to start from: none, and those of ended runs, newest first."""
    runs = [
        (f"{run.title} ({run.id})", run.id) for run in store.list_runs() if run.has_final_adapter
    ]
    return [(NEW_ADAPTER, ""), *runs]


def fill(settings: Form, reference: str | None) -> Updates:
    """Fill in the settings that an adapter decides.

    Raises:
        InputError: there is no such run.
        ModelError: the adapter cannot be trained further.
    """
    if not reference:
        return {}
    values = form.named_values(with_start(build_config({"start_from": reference.strip()})))
    return {settings.components[name]: form.update_of(name, values[name]) for name in DECIDED}


def connect(settings: Form, tab: gr.Tab, card: gr.HTML) -> Any:  # noqa: ANN401 - gradio's dependency
    """Connect the choice; return the event that fills in the form."""
    picker = settings.components["start_from"]

    def on_choose(reference: str | None) -> Updates:
        return fill(settings, reference)

    def on_select() -> Updates:
        return {picker: gr.Dropdown(choices())}

    tab.select(guarded(card, on_select), None, [card, picker], **QUIET)
    outputs = [card, *(settings.components[name] for name in DECIDED)]
    return picker.input(guarded(card, on_choose), picker, outputs, **QUIET)
