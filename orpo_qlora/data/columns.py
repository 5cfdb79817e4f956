"""Which column is the prompt, which the preferred answer, which the other. Floor 1; no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orpo_qlora.data.report import brief, plural
from orpo_qlora.errors import DataError

NEEDED = ("prompt", "chosen", "rejected")
COLUMNS_SHOWN = 10
_BYTE_ORDER_MARK = "\ufeff"


@dataclass(frozen=True)
class ColumnMapping:
    """The file's own names of the three columns a preference needs."""

    prompt: str
    chosen: str
    rejected: str

    def positions_in(self, columns: Sequence[str]) -> tuple[int, int, int]:
        """Return where prompt, chosen and rejected stand in a row with these columns."""
        return columns.index(self.prompt), columns.index(self.chosen), columns.index(self.rejected)


def find_mapping(columns: Sequence[str], source: str = "The file") -> ColumnMapping:
    """Find the three needed columns by name, whatever their order, case and outer spaces.

    Only the names themselves count: a synonym is a guess, and a guess must be shown first.

    Raises:
        DataError: a column is missing or there are two of it; names what is needed and found.
    """
    found: dict[str, list[str]] = {name: [] for name in NEEDED}
    for column in columns:
        found.get(_plain(column), []).append(column)
    _refuse_missing([name for name, hits in found.items() if not hits], columns, source)
    for name, hits in found.items():
        if len(hits) > 1:
            raise DataError(
                f"{source} has {len(hits)} columns that read “{name}”: {_listed(hits)}.",
                where=f"{source}, header",
                hint=f"Rename all but the one to use as {name}.",
            )
    return ColumnMapping(**{name: hits[0] for name, hits in found.items()})


def ignored_columns(columns: Sequence[str], mapping: ColumnMapping) -> tuple[str, ...]:
    """Return the named columns that the mapping does not use, in file order."""
    used = {mapping.prompt, mapping.chosen, mapping.rejected}
    return tuple(column for column in columns if column.strip() and column not in used)


def _plain(column: str) -> str:
    # Files joined by a program carry byte order marks in the middle of the text.
    return column.replace(_BYTE_ORDER_MARK, "").strip().casefold()


def _refuse_missing(missing: Sequence[str], columns: Sequence[str], source: str) -> None:
    if not missing:
        return
    word = "column" if len(missing) == 1 else "columns"
    message = f"{source} has no {word} {_listed(missing)}; its columns are {_listed(columns)}."
    hint = "Name the three columns prompt, chosen and rejected in the first line."
    if len(missing) == len(NEEDED):
        hint += " If that line is a preference already, put the names above it."
        message = (
            f"The first line of {source} does not name the columns {_listed(NEEDED)}; "
            f"it reads {_listed(columns)}."
        )
    raise DataError(message, where=f"{source}, header", hint=hint)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(brief(name) for name in names[:COLUMNS_SHOWN])
    rest = len(names) - COLUMNS_SHOWN
    return f"{shown} and {plural(rest, 'other')}" if rest > 0 else shown
