"""What happened to a preference file: counts that add up. Floor 1; page, CLI and run folder."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

ROWS_SHOWN = 5
"""Row numbers written out per reason; the rest are in `Drop.rows`."""
NAME_CHARACTERS = 40


class Drop(BaseModel):
    """Rows that became no pair, for one reason."""

    model_config = ConfigDict(frozen=True)

    reason: str
    """Stable id: `empty-prompt`, `empty-chosen`, `empty-rejected`, `identical`."""
    label: str
    """The reason in a person's words."""
    rows: tuple[int, ...]
    """Row numbers, the first row under the header being 1."""


class DataReport(BaseModel):
    """The account of one file; `rows_read == pairs + sum(len(drop.rows) for drop in drops)`."""

    model_config = ConfigDict(frozen=True)

    source: str
    """File name as the person gave it, without its folder."""
    sha256: str
    rows_read: int
    pairs: int
    drops: tuple[Drop, ...] = ()
    ignored_columns: tuple[str, ...] = ()

    @property
    def rows_dropped(self) -> int:
        """Rows that became no pair."""
        return sum(len(drop.rows) for drop in self.drops)

    def sentences(self) -> list[str]:
        """Return the report as short sentences, most important first."""
        lines = [f"{plural(self.rows_read, 'row')} read, {plural(self.pairs, 'pair')} usable."]
        for drop in self.drops:
            shown = ", ".join(f"{row:,}" for row in drop.rows[:ROWS_SHOWN])
            more = ", …" if len(drop.rows) > ROWS_SHOWN else ""
            word = "row" if len(drop.rows) == 1 else "rows"
            lines.append(f"{len(drop.rows):,} dropped: {drop.label} ({word} {shown}{more}).")
        if self.ignored_columns:
            names = ", ".join(brief(name) for name in self.ignored_columns)
            lines.append(f"Columns not used: {names}.")
        return lines


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: “1 row”, “1,200 rows”."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def brief(name: str) -> str:
    """Return a name from a file in quotes, on one line and cut to a readable length."""
    words = " ".join(name.split())
    return f"“{words if len(words) <= NAME_CHARACTERS else words[:NAME_CHARACTERS] + '…'}”"
