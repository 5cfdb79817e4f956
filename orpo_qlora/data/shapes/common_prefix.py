"""Two columns of whole texts without markers: what both begin with is the prompt. Floor 1.

Only the user can know whether it is: the reading is proposed, and used once it was confirmed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from orpo_qlora.data.columns import ColumnMapping, refuse_missing
from orpo_qlora.data.readers.rows import Row
from orpo_qlora.data.readers.table import Table
from orpo_qlora.data.shapes.base import Head, Preference, RowFaultError, Shape
from orpo_qlora.data.shapes.content.cells import text_of
from orpo_qlora.data.wording import brief
from orpo_qlora.errors import NeedsColumns, PromptProposal

# The end of a sentence, with closing quotes, or of a line; Chinese has no space after the stop.
_END = re.compile(r"(?:[.!?…:]+[\"'”’»)\]*]*(?=\s)|[。！？：]+[”’」』）]*|\n)\s*")
# A label that opens the response, such as “Assistant:” or “### Response:”.
_LABEL = re.compile(
    r"(?:\A|\n)[^\S\n]*(?:#+\s*)?(?:assistant|answer|response|output|reply|bot|ai|gpt|a)"
    r"[^\S\n]*:[^\S\n]*\n*",
    re.IGNORECASE,
)


class CommonPrefix(Shape):
    """Rows whose two texts begin with the same prompt."""

    name = "common prefix"

    def __init__(self, mapping: ColumnMapping, head: Head) -> None:
        columns = list(head.columns)
        self._chosen = columns.index(mapping.chosen)
        self._rejected = columns.index(mapping.rejected)
        self.mapping = mapping
        self.used = (mapping.chosen, mapping.rejected)
        self.notes = (
            f"The prompt is what “{mapping.chosen}” and “{mapping.rejected}” both begin with, up "
            "to the end of a sentence or turn.",
        )

    def preferences(self, row: Row) -> Sequence[Preference]:
        """Return the one preference of a row."""
        chosen, rejected = text_of(row.cells[self._chosen]), text_of(row.cells[self._rejected])
        if not chosen.strip() or not rejected.strip():
            raise RowFaultError("empty-rejected" if chosen.strip() else "empty-chosen")
        end = prefix_end(chosen, rejected)
        if not end:
            raise RowFaultError("no-common-prefix", chosen)
        return [
            Preference(
                (), _without_label(chosen[:end]), chosen[end:].strip(), rejected[end:].strip()
            )
        ]


def prefix_end(chosen: str, rejected: str) -> int:
    """Return where the responses begin, 0 where the texts share no sentence, line or turn.

    Behind the last label of a response if both share one, else behind the last sentence or line
    that both share and after which both go on.
    """
    both = enumerate(zip(chosen, rejected, strict=False))
    shared = next(
        (at for at, (one, other) in both if one != other), min(len(chosen), len(rejected))
    )
    for boundary in (_LABEL, _END):
        ends = [found.end() for found in boundary.finditer(chosen) if found.end() <= shared]
        for end in reversed(ends):
            are_responses = chosen[end:].strip() and rejected[end:].strip()
            if are_responses and _without_label(chosen[:end]):
                return end
    return 0


def _without_label(prompt: str) -> str:
    """Return a prompt without the label at its end: the base model's template has its own."""
    labels = [found for found in _LABEL.finditer(prompt) if found.end() == len(prompt)]
    return prompt[: labels[-1].start() if labels else len(prompt)].strip()


def proposal_of(mapping: ColumnMapping, head: Head) -> PromptProposal | None:
    """Return how the first row would be read, None unless most rows have a common prefix."""
    shape = CommonPrefix(mapping, head)
    found: list[PromptProposal] = []
    rows = [row for row in head.rows if not row.fault]
    for row in rows:
        try:
            [preference] = shape.preferences(row)
        except RowFaultError:
            continue
        found.append(PromptProposal(row.number, *preference.texts))
    return found[0] if len(found) * 2 > len(rows) else None


def without_prompt(
    table: Table, mapping: ColumnMapping, head: Head, *, is_confirmed: bool
) -> CommonPrefix:
    """Return the shape of a file without a column for the prompt.

    Args:
        table: the file.
        mapping: the columns of the two texts.
        head: its first rows.
        is_confirmed: whether the user confirmed the reading.

    Raises:
        NeedsColumns: it is not confirmed, or there is no common prefix; with the proposal.
    """
    if is_confirmed:
        return CommonPrefix(mapping, head)
    found = dict(mapping.parts())
    proposal = proposal_of(mapping, head)
    if proposal is None:
        refuse_missing(["prompt"], table.columns, table.source, found, has_header=table.has_header)
    raise NeedsColumns(
        f"{table.source} has no column “prompt”, but {brief(mapping.chosen)} and "
        f"{brief(mapping.rejected)} begin with the same text: it may be the prompt.",
        where=f"{table.source}, header" if table.has_header else table.source,
        hint=f"If row {proposal.row:,} reads correctly, confirm it with "
        "--prompt-from-common-prefix; otherwise choose the prompt with --map prompt=COLUMN.",
        columns=table.columns,
        found=found,
        has_header=table.has_header,
        proposal=proposal,
    )
