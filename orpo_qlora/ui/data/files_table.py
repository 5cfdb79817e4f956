"""The files of a dataset: share or cap of each, the seed, and which file the tab shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from orpo_qlora.data.files.sources import ALL, Quota
from orpo_qlora.data.summary import DataSummary, FilePart
from orpo_qlora.data.wording import brief
from orpo_qlora.ui.parts.guard import Updates

HEADERS = ["File", "Pairs found", "Share (0–1)", "Cap (pairs)", "Pairs taken"]
SHARE, CAP = 2, 3
TITLE = "Share or cap"
ALL_FILES = ("All files", "")
UNREADABLE = "not readable yet"


@dataclass(frozen=True)
class ListedFile:
    """One file of a dataset of which another cannot be used yet."""

    name: str
    id: str
    quota: Quota
    found: int | None
    """Its pairs; None for a file that cannot be used."""


@dataclass(frozen=True)
class FilesTable:
    """The table, and the choice of the file that summary, columns and findings are about."""

    group: gr.Accordion
    """Closed for a single file, all of which is taken."""
    table: gr.Dataframe
    seed: gr.Number
    """Decides which pairs a share or a cap takes."""
    shown: gr.Radio
    """Id of the file shown; empty for all of them."""

    @property
    def outputs(self) -> list[Any]:
        """Every component that changes with the dataset."""
        return [self.group, self.table, self.seed, self.shown]


def build() -> FilesTable:
    """Return the components, hidden until there is a file."""
    with gr.Accordion(TITLE, open=False, visible=False, elem_id="data-files") as group:
        table = gr.Dataframe(
            headers=HEADERS,
            datatype="str",
            type="array",
            interactive=True,
            static_columns=[place for place in range(len(HEADERS)) if place not in {SHARE, CAP}],
            column_count=len(HEADERS),
            show_label=False,
            label="Files",
            elem_id="data-files-table",
            buttons=[],
        )
        seed = gr.Number(
            0,
            label="Sample seed",
            info="Decides which pairs a share or a cap takes.",
            precision=0,
            interactive=True,
            elem_id="data-sample-seed",
        )
        shown = gr.Radio(
            [ALL_FILES], value="", label="Show", interactive=True, elem_id="data-files-shown"
        )
    return FilesTable(group=group, table=table, seed=seed, shown=shown)


def hidden_updates(files: FilesTable) -> Updates:
    """Return the table hidden, without a dataset."""
    return {files.group: gr.update(visible=False), files.shown: gr.update(value="")}


def single_updates(files: FilesTable, report: DataSummary) -> Updates:
    """Return the table of a dataset of one file of which all pairs are taken."""
    count = f"{report.pairs:,}"
    row = [report.source, count, *_typed(ALL), count]
    return _updates(files, [row], [(report.source, report.sha256)], "", seed=0)


def set_updates(files: FilesTable, report: DataSummary, shown: str, seed: int) -> Updates:
    """Return the table of a dataset with a share or cap, or of several files, that was read."""
    rows = [_row(part) for part in report.files]
    names = [(part.name, part.sha256) for part in report.files]
    return _updates(files, rows, names, shown, seed=seed)


def question_updates(
    files: FilesTable, listed: Sequence[ListedFile], shown: str, seed: int
) -> Updates:
    """Return the table of a dataset of which a file cannot be used yet.

    Args:
        files: the components.
        listed: the files.
        shown: id of the file with the question.
        seed: of the sample.
    """
    return _updates(
        files, [_listed_row(one) for one in listed], [(one.name, one.id) for one in listed], shown,
        seed=seed,
    )  # fmt: skip


def _listed_row(one: ListedFile) -> list[str]:
    if one.found is None:
        return [one.name, UNREADABLE, *_typed(one.quota), ""]
    return [one.name, f"{one.found:,}", *_typed(one.quota), f"{one.quota.count(one.found):,}"]


def _updates(
    files: FilesTable,
    rows: list[list[str]],
    names: Sequence[tuple[str, str]],
    shown: str,
    *,
    seed: int,
) -> Updates:
    choices = [ALL_FILES, *((brief(name)[1:-1], file_id) for name, file_id in names)]
    is_open = len(rows) > 1 or bool(rows[0][SHARE] or rows[0][CAP])
    return {
        files.group: gr.update(visible=True, open=is_open),
        files.table: gr.update(value=rows),
        files.seed: gr.update(value=seed),
        files.shown: gr.update(choices=choices, value=shown, visible=len(rows) > 1),
    }


def _row(part: FilePart) -> list[str]:
    found, taken = f"{part.pairs_found:,}", f"{part.pairs_taken:,}"
    return [part.name, found, *_typed(part.quota), taken]


def _typed(quota: Quota) -> list[str]:
    share = "" if quota.share is None else f"{quota.share:g}"
    return [share, "" if quota.cap is None else str(quota.cap)]


def quotas_of(value: object) -> list[list[object]]:
    """Return share and cap of each row of the table, as the browser sends it."""
    rows = value.get("data", []) if isinstance(value, dict) else []
    return [[row[SHARE], row[CAP]] for row in rows if len(row) == len(HEADERS)]
