"""How the page joins components to handlers. Floor 5."""

from __future__ import annotations

import json
from typing import Any

from orpo_qlora.ui.parts import theme

UNCHECKED: dict[str, Any] = {"preprocess": False, "api_visibility": "private"}
"""Handlers take values as they come and check them: gradio would compare a picked run with choices
it forgets when the page's process is started anew."""
QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", **UNCHECKED}
"""For handlers that answer at once: no queue, no spinner."""
READING: dict[str, Any] = {"js": theme.READ_ADDRESS, **QUIET}
"""For handlers that take what the page's address says."""


def parameters_of(address: str) -> dict[str, str]:
    """Return the parameters of the page's address, from the text that `READING` gives.

    A browser may send anything, or nothing, in its place.
    """
    try:
        parameters = json.loads(address)
    except (ValueError, TypeError):
        return {}
    return parameters if isinstance(parameters, dict) else {}
