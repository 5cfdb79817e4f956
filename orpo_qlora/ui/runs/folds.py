"""Collapsed sections of the run page, whose open state the browser remembers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from orpo_qlora.ui.history.shown import ids_of
from orpo_qlora.ui.parts.events import QUIET
from orpo_qlora.ui.parts.guard import Updates

STORED = "orpo-open-sections"
READ = f"() => [window.localStorage.getItem('{STORED}') ?? '']"


def build_fold(name: str, label: str) -> gr.Accordion:
    """Return a collapsed section, to be filled as a context manager."""
    return gr.Accordion(label, open=False, elem_id=f"run-{name}-fold", elem_classes="run-fold")


def opened_updates(folds: Mapping[str, gr.Accordion], stored: object) -> Updates:
    """Return the sections to open, from the names that a browser stored."""
    # Not gr.Accordion: while the page is built that puts another one on it.
    return {folds[name]: gr.update(open=True) for name in ids_of(stored) if name in folds}


def _script(name: str, *, is_open: bool) -> str:
    change = "add" if is_open else "delete"
    return (
        f"() => {{ const key = '{STORED}';"
        " const open = new Set((window.localStorage.getItem(key) ?? '').split(',')"
        f".filter(Boolean)); open.{change}('{name}');"
        " window.localStorage.setItem(key, [...open].join(',')); }"
    )


def connect_folds(folds: Mapping[str, gr.Accordion], page: gr.Blocks, stored: gr.Textbox) -> None:
    """Remember which sections are open, and open them again on the next visit.

    Args:
        folds: the sections by name.
        page: the page they are on.
        stored: a hidden input that carries the names from the browser.
    """

    def on_load(names: object) -> Any:  # noqa: ANN401 - may be a skip
        return opened_updates(folds, names) or gr.skip()

    page.load(on_load, stored, list(folds.values()), js=READ, **QUIET)
    for name, fold in folds.items():
        fold.expand(None, None, None, js=_script(name, is_open=True))
        fold.collapse(None, None, None, js=_script(name, is_open=False))
