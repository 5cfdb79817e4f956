"""The user's corrections to how a file is read: encoding, fixes and columns, pairs of a ranking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from orpo_qlora.data.choices import PairsFromRanking, ReadChoices
from orpo_qlora.data.columns import ColumnMapping
from orpo_qlora.data.doctor.findings import FIXES
from orpo_qlora.data.readers.encodings import codec_of
from orpo_qlora.data.readers.table import open_table
from orpo_qlora.data.remembered import forget_columns
from orpo_qlora.data.sources import ALL, Quota, parse_cap, parse_share
from orpo_qlora.errors import DataError, InputError
from orpo_qlora.ui.data import uploads
from orpo_qlora.ui.data.uploads import StoredFile, StoredSet


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


def choose_quotas(dataset_id: str, rows: Sequence[Sequence[object]]) -> None:
    """Store the share or cap of each file, as typed into the table of files.

    Args:
        dataset_id: a dataset of several files.
        rows: share and cap of each file, in order; empty for all pairs.

    Raises:
        InputError: a value is wrong, or a file has both; nothing is stored.
    """
    several = uploads.set_of(dataset_id)
    if several is None or len(rows) != len(several.files):
        raise InputError("The files have changed.", hint="Reload the page and try again.")
    files = tuple(
        StoredFile(id=file.id, quota=_quota(uploads.source_of(file.id), *row))
        for file, row in zip(several.files, rows, strict=True)
    )
    uploads.store_set(several.model_copy(update={"files": files}))


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
    elif kind not in {"fix", "unfix", "forget"} or (kind != "forget" and value not in FIXES):
        raise InputError(
            f"“{kind}:{value}” is not a choice.", hint="Reload the page and try again."
        )


def choose_columns(dataset_id: str, values: Sequence[object], *, has_header: bool) -> None:
    """Store the column mapping, which also applies to the next file with the same header.

    Args:
        dataset_id: the file.
        values: columns of prompt, chosen, rejected, system and context; empty for none.
        has_header: whether the first line of the file names the columns.
    """
    choices = uploads.choices_of(dataset_id)
    if has_header != choices.has_header:
        # The columns have other names now, so the old mapping no longer applies.
        changed = {"has_header": has_header, "mapping": None}
        uploads.choose(dataset_id, choices.model_copy(update=changed))
        return
    prompt, chosen, rejected, system, context = (str(value or "") for value in values)
    mapping = ColumnMapping(prompt, chosen, rejected, system, context)
    uploads.choose(dataset_id, choices.model_copy(update={"mapping": mapping}))


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
