"""Event options shared by all tabs, and the page's address. Floor 6."""

from __future__ import annotations

import json
from typing import Any

from orpo_qlora.ui.parts import theme

UNCHECKED: dict[str, Any] = {"preprocess": False, "api_visibility": "private"}
"""Handlers check values themselves: gradio compares a picked run with choices that it loses when
the page's process restarts."""
UNMARKED: dict[str, Any] = {"show_progress": "hidden", "show_progress_on": []}
"""No spinner. With `hidden` alone the browser still keeps a loading status for every output, and at
each later event updates all of them, each after a search of the whole page: seconds of processor
time for every visitor."""
QUIET: dict[str, Any] = {"queue": False, **UNMARKED, **UNCHECKED}
"""For fast handlers: no queue, no spinner."""
READING: dict[str, Any] = {"js": theme.READ_ADDRESS, **QUIET}
"""For handlers that read the page's address."""


def parameters_of(address: str) -> dict[str, str]:
    """Return the parameters of the page's address, from the text that `READING` gives.

    Anything else that a browser sends gives no parameters.
    """
    try:
        parameters = json.loads(address)
    except (ValueError, TypeError):
        return {}
    return parameters if isinstance(parameters, dict) else {}
