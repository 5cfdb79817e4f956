"""Buttons inside a gr.HTML; its click handler receives the choice of the pressed one."""

from __future__ import annotations

import html

import gradio as gr

CHOICE_SCRIPT = (
    "element.addEventListener('click', (event) => {"
    " const button = event.target.closest('[data-choice]');"
    " if (button) { trigger('click', {choice: button.dataset.choice}); } });"
)
"""`js_on_load` of a gr.HTML whose buttons are choices."""


def choice_button(choice: str, label: str, css_class: str = "choice-button") -> str:
    """Return a button as HTML; `choice` reaches the click handler, where `choice_of` reads it."""
    return (
        f'<button type="button" class="{css_class}" data-choice="{html.escape(choice)}">'
        f"{html.escape(label)}</button>"
    )


def choice_of(event: gr.EventData) -> str:
    """Return the choice of the button that was pressed; any text, since a browser sends it."""
    return str(event._data.get("choice", ""))
