"""The shape and columns that the user chose, completed from the file. Floor 1; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from itertools import islice
from pathlib import Path
from typing import get_args

from orpo_qlora.data.columns import (
    PARTS_OF_SHAPE,
    ColumnMapping,
    ShapeName,
    check_mapping,
    guess_mapping,
    mapping_of,
)
from orpo_qlora.data.files.choices import ReadChoices
from orpo_qlora.data.pairs import HEAD_SAMPLE
from orpo_qlora.data.readers.table import Table, open_table
from orpo_qlora.data.shapes.base import Head
from orpo_qlora.data.shapes.content.prompts import find_prompt, is_conversation
from orpo_qlora.data.shapes.registry import FAMILIES
from orpo_qlora.data.shapes.verdict.readings import needs_verdict
from orpo_qlora.data.shapes.verdict.two_responses import find_twos, is_known
from orpo_qlora.data.wording import listed
from orpo_qlora.errors import InputError, NeedsColumns

KEYS = tuple(field.name for field in fields(ColumnMapping) if field.name != "guessed")
"""What the user can choose: the shape, a column for each part, values of a verdict."""
_YES, _NO = {"yes", "true", "1"}, {"no", "false", "0", ""}


def complete_mapping(path: Path, choices: ReadChoices, chosen: Mapping[str, str]) -> ColumnMapping:
    """Return a mapping in which some parts are chosen and the others found by name.

    Args:
        path: the file.
        choices: how to read it.
        chosen: names of `ColumnMapping`'s fields to their values; empty ones are left out.

    Raises:
        InputError: a key or the shape does not exist.
        NeedsColumns: a part is neither chosen nor found.
        DataError: the file cannot be read.
    """
    values = {key: value for key, value in chosen.items() if value}
    _check_keys(values)
    table = open_table(path, "", choices, is_whole=False)
    head = Head(table.columns, table.head(HEAD_SAMPLE), has_header=table.has_header)
    found = _found(table, head, values)
    columns = {part for parts in PARTS_OF_SHAPE.values() for part in parts} & set(values)
    taken = {values[part] for part in columns}
    # A column that was chosen for one part is free in no other.
    kept = {part: "" for part, column in found.parts() if column in taken and part not in values}
    mapping = mapping_of({**asdict(found), **kept, **_typed(values), "guessed": ()})
    check_mapping(mapping, table.columns, table.source)
    return mapping if mapping.shape == "pairs" else _with_prompt(mapping, head)


def _with_prompt(mapping: ColumnMapping, head: Head) -> ColumnMapping:
    """Return a mapping with the prompt found by its name, unless it has one or needs none."""
    responses = mapping.first or mapping.responses or mapping.prompt
    index = head.columns.index(responses) if responses else None
    if mapping.prompt or head.most(index, is_conversation):
        return mapping
    taken = [head.columns.index(column) for _, column in mapping.parts()]
    found = find_prompt(head, taken).parts(head)
    return mapping_of({**asdict(mapping), **found})


def _check_keys(values: Mapping[str, str]) -> None:
    unknown = sorted(set(values) - set(KEYS))
    if unknown:
        raise InputError(f"--map has no {listed(unknown)}.", hint=f"Choose from {', '.join(KEYS)}.")
    shapes = get_args(ShapeName)
    if values.get("shape", shapes[0]) not in shapes:
        raise InputError(
            f"There is no shape “{values['shape']}”.", hint=f"Choose from {', '.join(shapes)}."
        )
    if values.get("is_reversed", "").casefold() not in _YES | _NO:
        raise InputError("is_reversed is yes or no.", hint="Write --map is_reversed=yes.")


def _typed(values: Mapping[str, str]) -> dict[str, str | bool]:
    is_reversed = values.get("is_reversed", "").casefold() in _YES
    return {**values, **({"is_reversed": is_reversed} if "is_reversed" in values else {})}


def _found(table: Table, head: Head, values: Mapping[str, str]) -> ColumnMapping:
    """Return what is recognised of the chosen shape, or of that which has the chosen parts."""
    recognised = _recognised(head)
    shape = values.get("shape") or _shape_of_parts(set(values), recognised)
    if shape != "pairs":
        same = next((mapping for mapping in recognised if mapping.shape == shape), None)
        return same or mapping_of({"shape": shape})
    try:
        named = dict(
            guess_mapping(table.columns, table.source, has_header=table.has_header).parts()
        )
    except NeedsColumns as exc:
        named = exc.found
    return mapping_of({key: value for key, value in named.items() if key != "shape"})


def _shape_of_parts(chosen: set[str], recognised: list[ColumnMapping]) -> ShapeName:
    """Return the shape for chosen parts: the one recognised if it has them all."""
    parts = chosen & {part for every in PARTS_OF_SHAPE.values() for part in every}
    fitting = [
        mapping.shape for mapping in recognised if parts <= set(PARTS_OF_SHAPE[mapping.shape])
    ]
    if fitting:
        return fitting[0]
    return next((name for name, every in PARTS_OF_SHAPE.items() if parts <= set(every)), "pairs")


def _recognised(head: Head) -> list[ColumnMapping]:
    found = []
    for family in FAMILIES:
        try:
            shape = family(head)
        except NeedsColumns as exc:
            if exc.found:
                found.append(mapping_of(exc.found))
            continue
        if shape is not None and shape.mapping is not None:
            found.append(shape.mapping)
    twos = (two for two in find_twos(head) if is_known(two))
    found += [mapping_of(needs_verdict(head, two, None, "").found) for two in islice(twos, 1)]
    return found
