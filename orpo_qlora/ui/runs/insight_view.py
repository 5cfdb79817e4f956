"""What the referee says, as HTML. Floor 5; page process."""

from __future__ import annotations

import html
from collections.abc import Sequence

from orpo_qlora.runs.insight import Insight, Level

WORDS: dict[Level, str] = {"bad": "act", "watch": "watch", "good": "good", "early": "wait"}


def insight_card(verdicts: Sequence[Insight]) -> str:
    """Return what the curves mean now: the first sentence, then other warnings."""
    lines = "".join(_line(one) for one in verdicts)
    # Not announced by itself: its numbers change with every step.
    return (
        f'<div class="card referee referee-{verdicts[0].level}" role="group" '
        f'aria-label="Run referee"><p class="card-title">What the curves say now</p>{lines}</div>'
    )


def _line(one: Insight) -> str:
    said = " ".join(filter(None, (one.sentence, one.advice)))
    return (
        f'<p class="verdict-line"><span class="pill pill-{one.level}">{WORDS[one.level]}</span>'
        f"<span>{html.escape(said)} <small>rule <code>{one.rule}</code></small></span></p>"
    )
