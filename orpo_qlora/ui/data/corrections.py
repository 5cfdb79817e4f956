"""The user's corrections to how a file is read: encoding, fixes and columns, pairs of a ranking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from orpo_qlora.data.columns import PARTS_OF_SHAPE, ColumnMapping, ShapeName, mapping_of
from orpo_qlora.data.doctor.findings import FIXES
from orpo_qlora.data.files.choices import Labelled, PairsFromRanking, ReadChoices
from orpo_qlora.data.files.remembered import forget_columns
from orpo_qlora.data.files.sources import ALL, Quota, parse_cap, parse_share
from orpo_qlora.data.mapping import complete_mapping
from orpo_qlora.data.readers.encodings import codec_of
from orpo_qlora.data.readers.table import open_table
from orpo_qlora.errors import DataError, InputError, NeedsColumns
from orpo_qlora.ui.data import uploads
from orpo_qlora.ui.data.uploads import StoredFile, StoredSet

FIELDS = (
    "prompt", "chosen", "rejected", "system", "context", "shape", "first", "second", "verdict",
    "responses", "scores", "label", "first_values", "second_values", "is_reversed",
)  # fmt: skip
"""Fields of a `ColumnMapping` in the order of the page's inputs."""


def apply_choice(dataset_id: str, choice: str) -> None:
    """Store the choice that a button carries, such as “fix:duplicate”.

    Raises:
        InputError: no button carries this choice.
    """
    kind, _, value = choice.partition(":")
    _check(kind, value)
    several = uploads.set_of(dataset_id)
    if several is not None:
        for file in several.files:
            apply_choice(file.id, choice)
        _apply_across(several, kind, value)
        return
    choices = uploads.choices_of(dataset_id)
    without = tuple(fix for fix in choices.fixes if fix != value)
    changed: dict[str, dict[str, object]] = {
        "encoding": {"encoding": value},
        "fix": {"fixes": (*without, value)},
        "unfix": {"fixes": without},
        "prefix": {"prompt_from_common_prefix": True},
    }
    if kind == "forget":
        _forget_columns(dataset_id, choices)
        uploads.choose(dataset_id, ReadChoices())
    else:
        uploads.choose(dataset_id, choices.model_copy(update=changed[kind]))


def _apply_across(several: StoredSet, kind: str, value: str) -> None:
    """Store the fixes across the files of a dataset; the shares and caps stay."""
    fixes = tuple(fix for fix in several.fixes if fix != value and kind != "forget")
    if kind == "fix":
        fixes = (*fixes, value)
    uploads.store_set(several.model_copy(update={"fixes": fixes}))


def choose_quotas(dataset_id: str, rows: Sequence[Sequence[object]], seed: object = 0) -> str:
    """Store the share or cap of each file, as typed into the table of files; return the dataset.

    Args:
        dataset_id: a dataset of one file or several.
        rows: share and cap of each file, in order; empty for all pairs.
        seed: decides which pairs they take.

    Raises:
        InputError: a value is wrong, or a file has both; nothing is stored.
    """
    one = StoredSet(files=(StoredFile(id=dataset_id),))
    several = uploads.set_of(dataset_id) or one
    if len(rows) != len(several.files):
        raise InputError("The files have changed.", hint="Reload the page and try again.")
    files = tuple(
        StoredFile(id=file.id, quota=_quota(uploads.source_of(file.id), *row))
        for file, row in zip(several.files, rows, strict=True)
    )
    if len(files) == 1 and files[0].quota == ALL:
        return files[0].id
    seed = int(seed) if isinstance(seed, int | float) else 0
    return uploads.store_set(several.model_copy(update={"files": files, "sample_seed": seed}))


def _quota(name: str, share: object, cap: object) -> Quota:
    typed = [str(value).strip() if value is not None else "" for value in (share, cap)]
    if all(typed):
        raise InputError(f"{name} has both a share and a cap.", hint="Empty one of them.")
    if typed[0]:
        return parse_share(typed[0], name)
    return parse_cap(typed[1], name) if typed[1] else ALL


def _forget_columns(dataset_id: str, choices: ReadChoices) -> None:
    # Columns are remembered by their names, which differ with and without a header line.
    for has_header in {True, choices.has_header}:
        variant = choices.model_copy(update={"has_header": has_header})
        try:
            table = open_table(uploads.data_file(dataset_id), "", variant, is_whole=False)
        except DataError:
            continue  # unreadable columns: nothing can have been remembered for them
        forget_columns(table.columns)


def _check(kind: str, value: str) -> None:
    if kind == "encoding":
        codec_of(value)
    elif f"{kind}:{value}" not in {"forget:", "prefix:yes"} and (
        kind not in {"fix", "unfix"} or value not in FIXES
    ):
        raise InputError(
            f"“{kind}:{value}” is not a choice.", hint="Reload the page and try again."
        )


def choose_columns(dataset_id: str, values: Sequence[object], *, has_header: bool) -> None:
    """Store the shape and its columns, which also apply to the next file with the same header.

    Args:
        dataset_id: the file.
        values: the values of `FIELDS`, in that order; those left out are empty.
        has_header: whether the first line of the file names the columns.

    Raises:
        InputError: there is no such shape.
    """
    choices = uploads.choices_of(dataset_id)
    if has_header != choices.has_header:
        # The columns have other names now, so the old mapping no longer applies.
        changed = {"has_header": has_header, "mapping": None}
        uploads.choose(dataset_id, choices.model_copy(update=changed))
        return
    uploads.choose(dataset_id, choices.model_copy(update={"mapping": _mapping(values)}))


def _mapping(values: Sequence[object]) -> ColumnMapping:
    given = dict(zip(FIELDS, values, strict=False))
    name = given.pop("shape", None) or "pairs"
    is_reversed = bool(given.pop("is_reversed", False))
    if name not in get_args(ShapeName):
        raise InputError(f"There is no shape “{name}”.", hint="Reload the page and try again.")
    shape = mapping_of({"shape": name}).shape
    parts = {part for every in PARTS_OF_SHAPE.values() for part in every}
    unused = parts - set(PARTS_OF_SHAPE[shape])  # hidden on the page
    if shape != "verdict":
        unused |= {"first_values", "second_values"}
    kept = {field: str(value or "") for field, value in given.items() if field not in unused}
    return mapping_of({**kept, "shape": shape, "is_reversed": is_reversed})


def proposed_mapping(dataset_id: str, shape: object) -> ColumnMapping:
    """Return the mapping of a shape as far as it is recognised in a stored file.

    Raises:
        DataError: the file is not stored or cannot be read.
    """
    values = {"shape": str(shape or "pairs")}
    choices = uploads.choices_of(dataset_id).model_copy(update={"mapping": None})
    try:
        return complete_mapping(uploads.data_file(dataset_id), choices, values)
    except NeedsColumns as exc:
        return mapping_of({**exc.found, **values})


def choose_ranking(dataset_id: str, setting: object) -> None:
    """Store which pairs are made of the responses of a ranked row.

    Raises:
        InputError: there is no such setting.
    """
    if setting not in get_args(PairsFromRanking):
        raise InputError(
            f"“{setting}” is not a way to pair ranked responses.",
            hint="Reload the page and try again.",
        )
    choices = uploads.choices_of(dataset_id)
    uploads.choose(dataset_id, choices.model_copy(update={"pairs_from_ranking": setting}))


def choose_labelled(dataset_id: str, setting: object) -> None:
    """Store how labelled responses are read: as pairs, or each on its own.

    Raises:
        InputError: there is no such setting.
    """
    if setting not in get_args(Labelled):
        raise InputError(
            f"“{setting}” is not a way to read labelled responses.",
            hint="Reload the page and try again.",
        )
    choices = uploads.choices_of(dataset_id)
    uploads.choose(dataset_id, choices.model_copy(update={"labelled": setting}))
