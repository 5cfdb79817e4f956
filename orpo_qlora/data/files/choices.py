"""How the user wants a file read; recorded with the run, so that a read can be repeated.

Floor 1; no torch.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from orpo_qlora.data.columns import ColumnMapping

PairsFromRanking = Literal["best_worst", "best_rest", "all"]
DEFAULT_RANKING: PairsFromRanking = "best_worst"
Labelled = Literal["pairs", "single"]


class ReadChoices(BaseModel):
    """How to read one file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoding: str = ""
    """Encoding the user confirmed; empty for Unicode, which needs no confirmation."""
    mapping: ColumnMapping | None = None
    """Columns the user chose; None to go by names and their synonyms."""
    has_header: bool = True
    """Off: the first line of separated values is a row, and columns are “Column 1”, …"""
    fixes: tuple[str, ...] = ()
    """Ids of findings whose fix is on, such as `duplicate`."""
    pairs_from_ranking: PairsFromRanking | None = None
    """Pairs of a ranked row: best with worst, best with every worse one, or all with all worse.
    None for what was chosen before for a file with the same columns, else best with worst."""
    labelled: Labelled | None = None
    """Labelled responses: paired by prompt, or each on its own for a method that trains on single
    responses. None for pairs, or single where no prompt has both labels."""
    prompt_from_common_prefix: bool = False
    """Whether the user confirmed that what both texts begin with is the prompt."""

    @property
    def are_default(self) -> bool:
        """Whether the user has chosen nothing that can be undone with a button."""
        ranking = self.pairs_from_ranking or DEFAULT_RANKING
        given = self.model_copy(update={"pairs_from_ranking": None, "labelled": None})
        return ranking == DEFAULT_RANKING and given == ReadChoices()
