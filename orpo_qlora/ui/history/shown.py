"""What the Runs tab shows: hidden inputs shared by the list, the comparison and the run."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr


@dataclass(frozen=True)
class Shown:
    """A run if `run` is set, else a comparison if `compared` is, else the list."""

    run: gr.Textbox
    """Id of a run."""
    compared: gr.Textbox
    """Ids of runs, separated by commas."""
    empty: gr.HTML
    """Shown instead of the list while there is no run."""
    card: gr.HTML
    """Where errors appear."""


def ids_of(text: object) -> list[str]:
    """Parse ids separated by commas, without repetitions."""
    return list(dict.fromkeys(part for part in str(text or "").split(",") if part))
