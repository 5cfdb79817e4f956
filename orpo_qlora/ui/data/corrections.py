"""What the person answers about a file, by a button or the row of columns. Floor 5."""

from __future__ import annotations

from collections.abc import Sequence

from orpo_qlora.data.choices import ReadChoices
from orpo_qlora.data.columns import ColumnMapping
from orpo_qlora.data.doctor.findings import FIXES
from orpo_qlora.data.readers.encodings import codec_of
from orpo_qlora.data.readers.table import open_table
from orpo_qlora.data.remembered import forget_mapping
from orpo_qlora.errors import DataError, InputError
from orpo_qlora.ui.data import uploads


def answer(dataset_id: str, choice: str) -> None:
    """Record what a button of the page says, as “fix:duplicate”.

    Raises:
        InputError: there is no such button.
    """
    kind, _, value = choice.partition(":")
    _check(kind, value)
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


def _forget_columns(dataset_id: str, choices: ReadChoices) -> None:
    # Names of columns can be chosen with and without the first line; either is remembered.
    for has_header in {True, choices.has_header}:
        read_so = choices.model_copy(update={"has_header": has_header})
        try:
            table = open_table(uploads.data_file(dataset_id), "", read_so, is_whole=False)
        except DataError:
            continue  # nothing was chosen among columns that cannot be read
        forget_mapping(table.columns)


def _check(kind: str, value: str) -> None:
    if kind == "encoding":
        codec_of(value)
    elif kind not in {"fix", "unfix", "forget"} or (kind != "forget" and value not in FIXES):
        raise InputError(f"There is nothing to choose as “{kind}:{value}”.")


def choose_columns(dataset_id: str, values: Sequence[object], *, has_header: bool) -> None:
    """Record which column is which, which serves the next file of the shape too.

    Args:
        dataset_id: the file.
        values: columns of prompt, chosen, rejected, system and context; empty for none.
        has_header: whether the first line of the file names the columns.
    """
    choices = uploads.choices_of(dataset_id)
    if has_header != choices.has_header:
        # Other names now: what was chosen among the old ones says nothing.
        changed = {"has_header": has_header, "mapping": None}
        uploads.choose(dataset_id, choices.model_copy(update=changed))
        return
    prompt, chosen, rejected, system, context = (str(value or "") for value in values)
    mapping = ColumnMapping(prompt, chosen, rejected, system, context)
    uploads.choose(dataset_id, choices.model_copy(update={"mapping": mapping}))
