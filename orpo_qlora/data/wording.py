"""Counts and names from a file in words. Floor 1; no torch."""

from __future__ import annotations

NAME_CHARACTERS = 40
NAMES_SHOWN = 10


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: “1 row”, “1,200 rows”."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def brief(name: str, characters: int = NAME_CHARACTERS) -> str:
    """Return a text from a file in quotes, on one line and cut to a readable length."""
    words = " ".join(name[: 4 * characters].split())
    return f"“{words if len(words) <= characters else words[:characters] + '…'}”"


def listed(names: tuple[str, ...] | list[str]) -> str:
    """Return names from a file in quotes, the first few written out."""
    shown = ", ".join(brief(name) for name in names[:NAMES_SHOWN])
    rest = len(names) - NAMES_SHOWN
    return f"{shown} and {plural(rest, 'other')}" if rest > 0 else shown
