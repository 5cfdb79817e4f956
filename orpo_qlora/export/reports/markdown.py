"""Markdown escaping and tables. Floor 5; no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$&])")


def plain(text: str) -> str:
    """Return a text on one line with everything escaped that Markdown or HTML would read."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table; the cells are plain texts."""
    lines = [head, ["---"] * len(head), *([plain(cell) for cell in row] for row in rows)]
    return [f"| {' | '.join(cells)} |" for cells in lines]
