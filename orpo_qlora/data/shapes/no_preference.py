"""Well-known shapes that state no preference, named when a file is refused. Floor 1; no torch."""

from __future__ import annotations

from orpo_qlora.data.shapes.base import Head
from orpo_qlora.data.shapes.cells import is_message_list, unpacked
from orpo_qlora.data.shapes.two_responses import find_twos, is_known
from orpo_qlora.data.shapes.verdict_readings import needs_verdict
from orpo_qlora.data.shapes.verdict_values import number_of
from orpo_qlora.errors import NeedsColumns

_RESPONSES = ("response", "output", "completion", "answer")
_PROMPTS = ("prompt", "instruction", "question", "query", "input")


def explained(error: NeedsColumns, head: Head) -> NeedsColumns:
    """Return the error with a sentence about what the file is, where that is known."""
    if error.proposal or "shape" in error.found:
        return error  # it knows better already
    two = next((two for two in find_twos(head) if is_known(two)), None)
    found = error.found
    if two is not None:
        first, second = head.columns[two.first], head.columns[two.second]
        sentence = (
            f"“{first}” and “{second}” are two responses, but no column says which is better."
        )
        found = needs_verdict(head, two, None, "").found
    else:
        sentence = _single(head)
    if not sentence:
        return error
    return NeedsColumns(
        f"{error.message} {sentence}",
        where=error.where,
        hint=error.hint,
        columns=error.columns,
        has_header=error.has_header,
        found=found,
    )


def _single(head: Head) -> str:
    """Return a sentence about a file with one response per row, or with trees of replies."""
    if _is_tree(head):
        return (
            "It is a message tree, as OpenAssistant exports it: pair the replies of one message by "
            "their rank, best and worst, and save prompt, chosen and rejected."
        )
    talks = head.find("conversations", "conversation", "messages", "dialogue")
    if head.most(talks, is_message_list) or head.most(talks, _is_rounds):
        return (
            "It holds conversations with one response each, as for supervised fine-tuning; a "
            "preference needs a second, worse response."
        )
    response, prompt = head.find(*_RESPONSES), head.find(*_PROMPTS)
    if response is None or prompt is None or response == prompt:
        return ""
    rated = [
        column
        for index, column in enumerate(head.columns)
        if index not in (response, prompt) and head.most(index, _is_rating)
    ]
    if rated:
        return (
            f"It holds one response per row, rated by “{rated[0]}”; a preference needs two "
            "responses to one prompt. If true means good, read it with --map shape=labelled "
            f"--map responses={head.columns[response]} --map label={rated[0]}."
        )
    return "It holds one response per row; a preference needs a second, worse response."


def _is_tree(head: Head) -> bool:
    if head.find("message_id") is not None and head.find("parent_id") is not None:
        return True
    prompt = head.find("prompt", "root", "tree")
    return head.most(prompt, lambda cell: _has_replies(unpacked(cell))) or (
        head.find("replies") is not None
    )


def _has_replies(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("replies"), list)


def _is_rounds(cell: object) -> bool:
    """Return whether a cell is a list of rounds, such as `[{"human": …, "assistant": …}]`."""
    value = unpacked(cell)
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def _is_rating(cell: object) -> bool:
    is_truth = isinstance(cell, bool) or str(cell).casefold() in {"true", "false"}
    return is_truth or number_of(cell) is not None
