"""The insights of a run as HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence

from orpo_qlora.runs.insight import Insight, Level

WORDS: dict[Level, str] = {"bad": "act", "watch": "watch", "good": "good", "early": "wait"}


def insight_card(insights: Sequence[Insight]) -> str:
    """Return the interpretation of the curves: the main insight, then other warnings."""
    lines = "".join(_line(one) for one in insights)
    # Not a live region: its numbers change with every step.
    return (
        f'<div class="card insight insight-{insights[0].level}" role="group" '
        f'aria-label="Insight">{lines}</div>'
    )


def _line(one: Insight) -> str:
    text = " ".join(filter(None, (one.sentence, one.advice)))
    return (
        f'<p class="insight-line"><span class="pill pill-{one.level}">{WORDS[one.level]}</span>'
        f"<span>{html.escape(text)} <small>rule <code>{one.rule}</code></small></span></p>"
    )
