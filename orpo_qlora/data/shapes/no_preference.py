"""Well-known shapes that state no preference, named when a file is refused. Floor 1; no torch."""

from __future__ import annotations

from dataclasses import dataclass

from orpo_qlora.data.column_names import words_of
from orpo_qlora.data.shapes.base import Head
from orpo_qlora.data.shapes.content.cells import is_message_list, unpacked
from orpo_qlora.data.shapes.content.media import media_columns
from orpo_qlora.data.shapes.labelled import KTO
from orpo_qlora.data.shapes.ranking import unordered_list
from orpo_qlora.data.shapes.verdict.readings import needs_verdict
from orpo_qlora.data.shapes.verdict.two_responses import find_twos, is_known
from orpo_qlora.data.shapes.verdict.values import number_of
from orpo_qlora.data.wording import listed
from orpo_qlora.errors import DataError, NeedsColumns

_RESPONSES = ("response", "output", "completion", "answer")
_PROMPTS = ("prompt", "instruction", "question", "query", "input")


def explained(error: NeedsColumns, head: Head) -> DataError:
    """Return the error with a sentence about what the file is, where that is known."""
    media = media_columns(head)
    if media and (len(error.found) < 2 or set(media) & set(error.found.values())):
        names = listed(media)
        places = [head.columns.index(name) for name in media]
        rows = sum(any(row.cells[at] for at in places) for row in head.rows if not row.fault)
        return DataError(
            f"{error.message} Images, audio or video are in {names}, in {rows:,} of the first "
            f"{len(head.rows):,} rows.",
            where=error.where,
            hint="Only text is trained: choose data whose prompt and responses are text.",
        )
    if error.proposal or "shape" in error.found:
        return error  # it knows better already
    two = next((two for two in find_twos(head) if is_known(two)), None)
    found = error.found
    if two is not None:
        first, second = head.columns[two.first], head.columns[two.second]
        kind = _Kind(
            f"“{first}” and “{second}” are two responses, but no column says which is better.",
            "Add a column “winner” with the name of the better column, or choose the column that "
            "says it with --map shape=verdict --map verdict=COLUMN.",
        )
        found = needs_verdict(head, two, None, "").found
    else:
        kind = _single(head)
    if not kind.sentence:
        return error
    return NeedsColumns(
        f"{error.message} {kind.sentence}",
        where=error.where,
        hint=kind.hint or error.hint,
        columns=error.columns,
        has_header=error.has_header,
        found=found,
    )


@dataclass(frozen=True)
class _Kind:
    """What a file is, and the way out; the error's own hint if empty."""

    sentence: str = ""
    hint: str = ""


_SECOND = "Add a second, worse response to each row, in a column “rejected”."


def _single(head: Head) -> _Kind:
    """Return what a file with one response per row, a tree or an unordered list is."""
    if _is_tree(head):
        return _Kind(
            "It is a message tree, as OpenAssistant exports it: pair the replies of one message by "
            "their rank, best and worst, and save prompt, chosen and rejected.",
            "Write one row per pair, with prompt, chosen and rejected.",
        )
    responses = unordered_list(head)
    if responses and head.most(head.find("labels", "step_labels", "ratings"), _are_truths):
        return _Kind(
            f"“{responses}” holds the steps of one response, each labelled right or wrong, as for "
            "a process reward model; a preference needs a second, worse response.",
            _SECOND,
        )
    if responses:
        return _Kind(
            f"“{responses}” holds several responses, but nothing says which is better.",
            "Choose the scores or ranks with --map shape=ranking --map "
            f"responses={responses} --map scores=COLUMN, or add a column “scores” with one number "
            f"for each response. If the best is first: --map shape=ranking --map "
            f"responses={responses}.",
        )
    if any({"input", "ids"} <= set(words_of(column)) for column in head.columns):
        return _Kind(
            "It holds numbers of tokens instead of texts.",
            "Choose the data before it was tokenized.",
        )
    talks = head.find("conversations", "conversation", "messages", "dialogue")
    if any(head.most(talks, test) for test in (is_message_list, _is_rounds, _are_texts)):
        return _Kind(
            "It holds conversations with one response each, as for supervised fine-tuning; a "
            "preference needs a second, worse response.",
            _SECOND,
        )
    return _single_response(head)


def _single_response(head: Head) -> _Kind:
    response, prompt = head.find(*_RESPONSES), head.find(*_PROMPTS)
    if response is None or prompt is None or response == prompt:
        return _Kind()
    others = [index for index in range(len(head.columns)) if index not in (response, prompt)]
    rated = next((index for index in others if head.most(index, _is_rating)), None)
    if rated is None:
        return _Kind(
            "It holds one response per row; a preference needs a second, worse response.", _SECOND
        )
    column, name = head.columns[rated], head.columns[response]
    fact = (
        f"It holds one response per row, rated by “{column}”; a preference needs two responses to "
        "one prompt."
    )
    if head.most(rated, _is_truth):
        return _Kind(
            f"{fact} If true means good, read it with --map shape=labelled --map "
            f"responses={name} --map label={column}.",
            f"{KTO} The other methods train on prompts that have both labels.",
        )
    return _Kind(
        fact,
        "Write the responses to one prompt into one row, as a list “responses” with a list "
        "“scores”.",
    )


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


def _are_texts(cell: object) -> bool:
    """Return whether a cell is a conversation as a list of texts, user and assistant in turn."""
    value = unpacked(cell)
    return isinstance(value, list) and len(value) > 1 and all(isinstance(t, str) for t in value)


def _are_truths(cell: object) -> bool:
    value = unpacked(cell)
    return isinstance(value, list) and bool(value) and all(isinstance(t, bool) for t in value)


def _is_rating(cell: object) -> bool:
    return _is_truth(cell) or number_of(cell) is not None


def _is_truth(cell: object) -> bool:
    return isinstance(cell, bool) or str(cell).strip().casefold() in {"true", "false", "0", "1"}
