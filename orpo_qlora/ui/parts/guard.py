"""Error handling of the page: an exception in a handler becomes a card. Floor 6."""

from __future__ import annotations

import functools
import logging
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from orpo_qlora.errors import OrpoQloraError
from orpo_qlora.program import without_secrets
from orpo_qlora.ui.parts import cards

Updates = dict[Any, Any]
"""New values by component; a component that is not named keeps what it shows."""

log = logging.getLogger(__name__)


def guarded(
    card: gr.HTML,
    handler: Callable[..., Updates | None],
    on_error: Updates | None = None,
    *,
    keeps_card: bool = False,
) -> Callable[..., Any]:
    """Wrap a handler so that its errors appear in `card` and a success empties the card.

    Args:
        card: where errors are shown.
        handler: returns what changed, or None when nothing did.
        on_error: what else changes when it fails.
        keeps_card: a success leaves the card unchanged, so that a poll does not clear an error
            before it is read.
    """

    @functools.wraps(handler)
    def call(*values: Any) -> Any:  # noqa: ANN401 - whatever the inputs hold
        try:
            updates = handler(*values)
            return (updates or gr.skip()) if keeps_card else _shown(card, updates)
        except Exception as exc:  # noqa: BLE001 - one of the four catch-alls
            return {**(on_error or {}), card: card_of(exc)}

    return call


def guarded_stream(
    card: gr.HTML, handler: Callable[..., Iterator[Updates]], on_error: Updates | None = None
) -> Callable[..., Iterator[Any]]:
    """Wrap a handler that yields what changed, as `guarded` does for one that returns it."""

    @functools.wraps(handler)
    def call(*values: Any) -> Iterator[Any]:  # noqa: ANN401 - whatever the inputs hold
        try:
            for updates in handler(*values):
                yield _shown(card, updates)
        except Exception as exc:  # noqa: BLE001 - the same catch-all, for a stream
            yield {**(on_error or {}), card: card_of(exc)}

    return call


def _shown(card: gr.HTML, updates: Updates | None) -> Any:  # noqa: ANN401 - what gradio takes
    return gr.skip() if updates is None else {card: "", **updates}


def card_of(error: Exception) -> str:
    """Return an error as a card; an internal error is logged, not shown."""
    if isinstance(error, OrpoQloraError):
        return cards.error_card(error.message, hint=error.hint, where=error.where)
    trace = "".join(traceback.format_exception(error))
    log.error("internal error\n%s", without_secrets(trace))
    return cards.error_card(
        "Internal error: this is a fault of the program, not of your input.",
        hint="Try again. The details are in the terminal that runs the page; please report them.",
    )
