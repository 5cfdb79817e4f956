"""The chosen view of a run: smoothing, axes, steps and sample answers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SMOOTHING = 0.6
MOST_SMOOTHING = 0.99
AT_FIRST: tuple[object, ...] = (SMOOTHING, False, "", "")
"""Default values of the controls."""
IN_ADDRESS = ("smoothing", "log", "steps", "answers")
"""The controls by their names in the page's address, in the order of `Choices.of`."""
MOST_CHARACTERS = 40
"""Longest text accepted as a range of steps."""
FAR = 10**9
"""Open end of a range: above any step."""
STEPS = re.compile(r"\s*(\d[\d,]*)?\s*(?:-|–|\.\.|to)\s*(\d[\d,]*)?\s*")


@dataclass(frozen=True)
class ChartView:
    """Smoothing, kind of axis and the steps to show."""

    smoothing: float = SMOOTHING
    is_log: bool = False
    steps: tuple[int, int] | None = None
    """First and last step; None for the whole run."""
    error: str = ""
    """Why the range of steps is invalid; empty if it is valid."""

    @classmethod
    def of(cls, values: Sequence[object]) -> ChartView:
        """Return the view of three control values; invalid ones fall back to the default."""
        smoothing, is_log, steps = values
        given = smoothing if isinstance(smoothing, int | float) else SMOOTHING
        share = float(min(MOST_SMOOTHING, max(0.0, given)))  # NaN becomes 0
        found, error = parse_steps(str(steps or ""))
        return cls(round(share, 2), is_log is True, found, error)


@dataclass(frozen=True)
class Choices:
    """All choices about how a run is shown."""

    chart: ChartView = ChartView()
    answers_step: int | None = None
    """Step of the sample answers beside the base model's; None for the latest."""

    @classmethod
    def of(cls, values: Sequence[object]) -> Choices:
        """Return the choices of the control values; missing ones have their default."""
        smoothing, is_log, steps, answers = (*values, *AT_FIRST[len(values) :])
        step = int(answers) if isinstance(answers, str) and answers.isdecimal() else None
        return cls(ChartView.of((smoothing, is_log, steps)), step)


def values_in(parameters: Mapping[str, str]) -> list[object]:
    """Return control values from the page's address, in the order of `Choices.of`."""
    smoothing, is_log, steps, answers = (str(parameters.get(name, "")) for name in IN_ADDRESS)
    try:
        share = ChartView.of((float(smoothing), False, "")).smoothing
    except ValueError:
        share = SMOOTHING
    return [share, is_log == "true", steps[:MOST_CHARACTERS], answers]


def parse_steps(text: str) -> tuple[tuple[int, int] | None, str]:
    """Return first and last step of a typed range, and an error message or an empty text."""
    if not text.strip():
        return None, ""
    match = STEPS.fullmatch(text)
    first, last = (
        (min(FAR, int(end.replace(",", ""))) if end else default)
        for end, default in zip(match.groups() if match else (None, None), (0, FAR), strict=True)
    )
    if not match or not any(match.groups()) or first >= last:
        return None, f"“{text.strip()[:40]}” is not a range of steps; write for example 100-200."
    return (first, last), ""
