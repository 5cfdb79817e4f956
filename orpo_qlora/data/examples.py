"""The preference files that ship with the program. Floor 1; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orpo_qlora.errors import InputError

FOLDER = Path(__file__).parent / "examples"


@dataclass(frozen=True)
class Example:
    """One packaged preference file with its title and description."""

    name: str
    title: str
    description: str


EXAMPLES = {
    example.name: example
    for example in (
        Example(
            "short_answers",
            "Short answers",
            "Prefers a direct sentence and a “For example, …” to vague, hedging chatbot prose.",
        ),
        Example(
            "hello",
            "Hello",
            "The toy pairs of ORPO tutorials: too few to teach a style, enough to see a run.",
        ),
    )
}
"""Every packaged file by name, the one to try first at the front."""


def example_names() -> list[str]:
    """Return the names of the packaged files, the one to try first at the front."""
    return list(EXAMPLES)


def example_path(name: str) -> Path:
    """Return the packaged CSV of that name.

    Raises:
        InputError: there is no such example.
    """
    if name not in EXAMPLES:
        raise InputError(f"There is no example “{name}”.", hint=f"Examples: {', '.join(EXAMPLES)}.")
    return FOLDER / f"{EXAMPLES[name].name}.csv"
