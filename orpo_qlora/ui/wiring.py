"""How the page joins components to handlers. Floor 5."""

from __future__ import annotations

from typing import Any

from orpo_qlora.ui import look

UNCHECKED: dict[str, Any] = {"preprocess": False, "api_visibility": "private"}
"""Handlers take values as they come and check them: gradio would compare a picked run with choices
it forgets when the page's process is started anew."""
QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", **UNCHECKED}
"""For handlers that answer at once: no queue, no spinner."""
READING: dict[str, Any] = {"js": look.READ_ADDRESS, **QUIET}
"""For handlers that take what the page's address says."""
