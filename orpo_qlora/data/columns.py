"""Which columns are the prompt, the chosen and the rejected response. Floor 1; no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn

from pydantic import TypeAdapter

from orpo_qlora.data.column_names import about_responses, good_and_bad, plain_name
from orpo_qlora.data.wording import brief, listed
from orpo_qlora.errors import NeedsColumns

NEEDED = ("prompt", "chosen", "rejected")
SYNONYMS = {
    "prompt": ("prompt", "instruction", "question", "input", "query", "prompts", "user_prompt"),
    "chosen": (
        "chosen", "preferred", "chosen_response", "response_chosen", "chosen_answer",
        "answer_chosen", "accepted", "positive", "winner", "better", "response_j",
        "chosen_text", "text_chosen", "chosen_completion", "completion_chosen", "chosen_output",
        "preferred_response", "better_response", "good_response", "best_response",
        "positive_response", "pos_response", "pos_resp", "winning_response", "response_w", "y_w",
    ),
    "rejected": (
        "rejected", "dispreferred", "rejected_response", "response_rejected", "rejected_answer",
        "answer_rejected", "declined", "negative", "loser", "worse", "response_k",
        "rejected_text", "text_rejected", "rejected_completion", "completion_rejected",
        "rejected_output", "dispreferred_response", "worse_response", "bad_response",
        "worst_response", "negative_response", "neg_response", "neg_resp", "losing_response",
        "response_l", "y_l",
    ),
    "system": (
        "system", "system_prompt", "system_message", "system_instruction", "system_instructions",
        "sys_prompt", "system_text", "system_content", "developer",
    ),
    "context": ("context",),
}  # fmt: skip
"""Names of each part, the exact one first; only the first two lists' first names are no guess."""
ShapeName = Literal["pairs", "verdict", "ranking", "conversation", "labelled"]
"""Families of shapes that the user can choose."""
PARTS_OF_SHAPE: dict[ShapeName, tuple[str, ...]] = {
    "pairs": ("prompt", "chosen", "rejected", "system", "context"),
    "verdict": ("prompt", "first", "second", "verdict", "system", "context"),
    "ranking": ("prompt", "responses", "scores", "system", "context"),
    "conversation": ("prompt", "rejected", "system"),
    "labelled": ("prompt", "responses", "label", "system", "context"),
}
"""The parts of each family that can have a column."""
NEEDED_OF_SHAPE: dict[ShapeName, tuple[str, ...]] = {
    "pairs": ("chosen", "rejected"),
    "verdict": ("first", "second"),
    "ranking": (),
    "conversation": ("prompt", "rejected"),
    "labelled": ("responses", "label"),
}
GUARD_COLUMN = "formula_guard"
"""Column of a CSV written by this program: which rows have an apostrophe before a formula."""


@dataclass(frozen=True)
class ColumnMapping:
    """The file's own names of the columns that a preference is made of."""

    prompt: str = ""
    """Empty where the answers hold the whole conversation."""
    chosen: str = ""
    rejected: str = ""
    system: str = ""
    context: str = ""
    """A text that belongs to the prompt and follows it after an empty line."""
    guessed: tuple[str, ...] = ()
    """Parts found by a synonym, such as `prompt`, and not confirmed by the user."""
    shape: ShapeName = "pairs"
    first: str = ""
    """The first of two responses of which `verdict` names the better one."""
    second: str = ""
    verdict: str = ""
    """Empty to find it by its name: several columns may hold the verdict."""
    responses: str = ""
    """The responses of a ranked row, or the single response that `label` rates."""
    scores: str = ""
    """Scores or ranks; empty where the responses hold them or are in order."""
    label: str = ""
    first_values: str = ""
    """Values of `verdict` that choose the first response, comma-separated; “<0” compares."""
    second_values: str = ""
    is_reversed: bool = False
    """Whether verdict, scores or label mean the opposite of what was recognised."""

    def parts(self) -> Iterator[tuple[str, str]]:
        """Yield each part of the shape that has a column, with its column."""
        for part in PARTS_OF_SHAPE[self.shape]:
            column = getattr(self, part)
            if column:
                yield part, column


_MAPPING = TypeAdapter(ColumnMapping)


def mapping_of(values: Mapping[str, object]) -> ColumnMapping:
    """Return the mapping with these fields, checked."""
    return _MAPPING.validate_python(dict(values))


def guess_mapping(
    columns: Sequence[str], source: str = "The file", *, has_header: bool = True
) -> ColumnMapping:
    """Find the columns by name, then by synonym, whatever their order, case and outer spaces.

    Parts found by a synonym only are listed in `guessed`. A prompt that is not found stays
    empty: the answers may hold the whole conversation, which only the rows show.

    Raises:
        NeedsColumns: an answer is missing, or two columns fit the same part equally well.
    """
    plain = [plain_name(column) for column in columns]
    found: dict[str, str] = {}
    guessed = []
    for part, names in SYNONYMS.items():
        name = next((name for name in names if name in plain), None)
        if name is None:
            continue
        hits = [column for column, text in zip(columns, plain, strict=True) if text == name]
        if len(hits) > 1:
            _refuse_twice(part, hits, columns, source, has_header=has_header)
        found[part] = hits[0]
        if name != names[0] or part == "context":
            guessed.append(part)
    _take_words(found, guessed, columns)
    _take_response(found, guessed, columns, plain)
    _take_context(found, guessed, columns, plain)
    missing = [part for part in ("chosen", "rejected") if part not in found]
    if missing:
        refuse_missing(
            [part for part in NEEDED if part not in found],
            columns,
            source,
            found,
            has_header=has_header,
        )
    return mapping_of({**found, "guessed": tuple(guessed)})


def check_mapping(
    mapping: ColumnMapping, columns: Sequence[str], source: str, *, has_header: bool = True
) -> None:
    """Check that a mapping the user chose fits the file.

    Raises:
        NeedsColumns: a column is not there, is used twice, or an answer has none.
    """
    chosen = list(mapping.parts())
    gone = [column for _, column in chosen if column not in columns]
    used = [column for _, column in chosen]
    twice = sorted({column for column in used if used.count(column) > 1})
    if gone:
        fact = f"{source} has no column {listed(gone)}; its columns are {listed(list(columns))}."
    elif any(not getattr(mapping, part) for part in NEEDED_OF_SHAPE[mapping.shape]):
        needed = listed(NEEDED_OF_SHAPE[mapping.shape])
        fact = f"{source}: {needed} need a column each."
        if mapping.shape == "pairs":
            fact = f"{source}: both answers need a column."
    elif twice:
        fact = f"{source}: {listed(twice)} cannot be two parts of a preference."
    else:
        return
    raise NeedsColumns(
        fact,
        where=_place_of_names(source, has_header=has_header),
        hint="Choose a different column for each part.",
        columns=tuple(columns),
        has_header=has_header,
        found={"shape": mapping.shape},
    )


def ignored_columns(columns: Sequence[str], used: Sequence[str]) -> tuple[str, ...]:
    """Return the named columns that are not used, in file order."""
    read = {GUARD_COLUMN, *used}
    return tuple(column for column in columns if column.strip() and column not in read)


def refuse_missing(
    missing: Sequence[str],
    columns: Sequence[str],
    source: str,
    found: dict[str, str],
    *,
    has_header: bool = True,
) -> NoReturn:
    """Raise the error that lists the missing columns and those of the file.

    Raises:
        NeedsColumns: always.
    """
    noun = "column" if has_header else "key"
    word = noun if len(missing) == 1 else f"{noun}s"
    names = listed(list(columns))
    message = f"{source} has no {word} {listed(list(missing))}; its {noun}s are {names}."
    hint = (
        "Name the three columns prompt, chosen and rejected in the first line, or choose them with "
        "--map prompt=COLUMN and so on."
    )
    if not has_header:
        hint = (
            "Choose them with --map prompt=COLUMN, --map chosen=COLUMN and --map rejected=COLUMN, "
            "or rename them to prompt, chosen and rejected."
        )
    elif len(missing) == len(NEEDED):
        hint += " If that line is a preference already, put the names above it."
        message = (
            f"The first line of {source} does not name the columns {listed(list(NEEDED))}; "
            f"it reads {names}."
        )
    raise NeedsColumns(
        message,
        where=_place_of_names(source, has_header=has_header),
        hint=hint,
        columns=tuple(columns),
        found=dict(found),
        has_header=has_header,
    )


def _place_of_names(source: str, *, has_header: bool) -> str:
    return f"{source}, header" if has_header else source


def _take_words(found: dict[str, str], guessed: list[str], columns: Sequence[str]) -> None:
    # “winner” may name a model where “winner_response” holds the response.
    named = good_and_bad(about_responses(columns))
    is_exact = {"chosen", "rejected"} & {plain_name(column) for column in columns}
    if is_exact or len(named) < 2:
        if "chosen" in found and "rejected" in found:
            return
        named = good_and_bad(columns)
    for part, column in named.items():
        if found.get(part) != column:
            found[part] = column
            guessed[:] = list(dict.fromkeys([*guessed, part]))


def _take_response(
    found: dict[str, str], guessed: list[str], columns: Sequence[str], plain: list[str]
) -> None:
    # ms-swift's layout: “response” is chosen where only the rejected one says what it is.
    hits = [name for name in ("response", "answer", "completion", "output") if name in plain]
    if "rejected" in found and "chosen" not in found and len(hits) == 1:
        found["chosen"] = columns[plain.index(hits[0])]
        guessed.append("chosen")


def _take_context(
    found: dict[str, str], guessed: list[str], columns: Sequence[str], plain: list[str]
) -> None:
    # Alpaca's layout: the task in “instruction”, what it is about in “input”.
    if plain.count("input") == 1 and "instruction" in plain and "prompt" not in plain:
        found["context"] = columns[plain.index("input")]
        guessed[:] = list(dict.fromkeys([*guessed, "context"]))


def _refuse_twice(
    part: str, hits: list[str], columns: Sequence[str], source: str, *, has_header: bool
) -> None:
    names = ", ".join(brief(hit) for hit in hits)
    raise NeedsColumns(
        f"{source} has {len(hits)} {'columns' if has_header else 'keys'} that read "
        f"“{plain_name(hits[0])}”: {names}.",
        where=_place_of_names(source, has_header=has_header),
        hint=f"Rename all but the one to use as {part}.",
        columns=tuple(columns),
        has_header=has_header,
    )
