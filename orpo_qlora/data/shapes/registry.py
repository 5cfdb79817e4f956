"""All shapes in the order they are tried: from the first rows of a file to its shape. Floor 1.

To add a shape: one file with a `Shape` and a function `recognise(head)`, its entry here, and a test
with the exact pairs.
"""

from __future__ import annotations

from collections.abc import Callable

from orpo_qlora.data.columns import ColumnMapping, ShapeName
from orpo_qlora.data.shapes import conversation, labelled, ranking
from orpo_qlora.data.shapes.answer_columns import AnswerColumns
from orpo_qlora.data.shapes.base import Head, Shape
from orpo_qlora.data.shapes.verdict import numbered, verdict
from orpo_qlora.data.shapes.verdict.two_responses import find_twos, is_known
from orpo_qlora.data.shapes.verdict.values import names_a_side, number_of

FAMILIES: tuple[Callable[[Head], Shape | None], ...] = (
    conversation.recognise,
    numbered.recognise,
    verdict.recognise,
    ranking.recognise,
    labelled.recognise,
)
_CHOSEN: dict[ShapeName, Callable[[Head, ColumnMapping], Shape]] = {
    "pairs": lambda head, mapping: (
        ranking.recognise_rejected_list(head, mapping) or AnswerColumns(mapping, head)
    ),
    "verdict": verdict.from_mapping,
    "ranking": lambda head, mapping: _ranking(head, mapping),
    "conversation": conversation.from_mapping,
    "labelled": labelled.from_mapping,
}


def _ranking(head: Head, mapping: ColumnMapping) -> Shape:
    shape = None if mapping.responses else numbered.recognise(head, mapping)
    return shape or ranking.from_mapping(head, mapping)


def recognise(head: Head) -> Shape | None:
    """Return the shape of a file that is not two columns of responses, else None.

    Explicit columns `chosen` and `rejected` win over every other reading of a file.

    Raises:
        NeedsColumns: it is such a shape, but can be read in two ways, or a column is missing.
    """
    chosen, rejected = head.find("chosen"), head.find("rejected")
    if chosen is not None and rejected is not None and not _is_verdict(head, chosen):
        return ranking.recognise_rejected_list(head)
    return next((shape for family in FAMILIES if (shape := family(head))), None)


def _is_verdict(head: Head, chosen: int) -> bool:
    """Return whether a column “chosen” names one of several responses instead of holding it."""
    if head.most(chosen, lambda cell: number_of(cell) is not None):
        return True
    twos = (two for two in find_twos(head) if is_known(two))
    return any(head.most(chosen, names_a_side(head, two)) for two in twos)


def shape_of_mapping(mapping: ColumnMapping, head: Head) -> Shape:
    """Return the shape and columns that the user chose.

    Raises:
        NeedsColumns: the columns do not hold what the shape needs.
    """
    return _CHOSEN[mapping.shape](head, mapping)
