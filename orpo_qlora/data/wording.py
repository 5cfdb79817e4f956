"""Counts, sizes and names from a file in words. Floor 1; no torch."""

from __future__ import annotations

NAME_CHARACTERS = 40
NAMES_SHOWN = 10


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: “1 row”, “1,200 rows”."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def in_bytes(count: float) -> str:
    """Return a size in two meaningful digits: “2.9 GB”, “60 MB”."""
    for unit, name in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB")):
        if count >= unit:
            value = count / unit
            return f"{value:.1f} {name}" if value < 10 else f"{value:,.0f} {name}"
    return f"{count / 1000:.0f} kB"


def brief(name: str, characters: int = NAME_CHARACTERS) -> str:
    """Return a text from a file in quotes, on one line and cut to a readable length."""
    words = " ".join(name[: 4 * characters].split())
    return f"“{words if len(words) <= characters else words[:characters] + '…'}”"


def listed(names: tuple[str, ...] | list[str]) -> str:
    """Return names from a file in quotes, the first few written out."""
    shown = ", ".join(brief(name) for name in names[:NAMES_SHOWN])
    rest = len(names) - NAMES_SHOWN
    return f"{shown} and {plural(rest, 'other')}" if rest > 0 else shown
