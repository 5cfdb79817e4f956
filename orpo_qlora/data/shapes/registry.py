"""All shapes in the order they are tried: from the first rows of a file to its shape. Floor 1.

To add a shape: one file with a `Shape` and a function `recognise(head)`, its entry here, and a test
with the exact pairs.
"""

from __future__ import annotations

from collections.abc import Callable

from orpo_qlora.data.columns import ColumnMapping
from orpo_qlora.data.shapes import conversation, labelled, ranking, verdict
from orpo_qlora.data.shapes.answer_columns import AnswerColumns
from orpo_qlora.data.shapes.base import Head, Shape
from orpo_qlora.data.shapes.verdict import number_of

FAMILIES: tuple[Callable[[Head], Shape | None], ...] = (
    conversation.recognise,
    ranking.recognise_numbered,
    verdict.recognise,
    ranking.recognise,
    labelled.recognise,
)


def recognise(head: Head) -> Shape | None:
    """Return the shape of a file that is not two columns of responses, else None.

    Explicit columns `chosen` and `rejected` win over every other reading of a file.

    Raises:
        DataError: it is such a shape, but its verdict can be read in two ways.
    """
    chosen, rejected = head.find("chosen"), head.find("rejected")
    are_responses = not head.most(chosen, lambda cell: number_of(cell) is not None)
    if chosen is not None and rejected is not None and are_responses:
        return ranking.recognise_rejected_list(head)
    return next((shape for family in FAMILIES if (shape := family(head))), None)


def answer_columns(mapping: ColumnMapping, head: Head) -> AnswerColumns:
    """Return the shape of a file with columns of chosen and rejected responses."""
    return AnswerColumns(mapping, head)
