"""The files of a dataset of several: share or cap of each, and which one the tab shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from orpo_qlora.data.files.sources import Quota
from orpo_qlora.data.summary import DataSummary, FilePart
from orpo_qlora.data.wording import brief
from orpo_qlora.ui.parts.guard import Updates

HEADERS = ["File", "Pairs found", "Share (0–1)", "Cap (pairs)", "Pairs taken"]
SHARE, CAP = 2, 3
ALL_FILES = ("All files", "")


@dataclass(frozen=True)
class FilesTable:
    """The table, and the choice of the file that summary, columns and findings are about."""

    group: gr.Group
    table: gr.Dataframe
    shown: gr.Radio
    """Id of the file shown; empty for all of them."""

    @property
    def outputs(self) -> list[Any]:
        """Every component that changes with the dataset."""
        return [self.group, self.table, self.shown]


def build() -> FilesTable:
    """Return the components, hidden until there are several files."""
    with gr.Group(visible=False, elem_id="data-files") as group:
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
        shown = gr.Radio(
            [ALL_FILES], value="", label="Show", interactive=True, elem_id="data-files-shown"
        )
    return FilesTable(group=group, table=table, shown=shown)


def hidden_updates(files: FilesTable) -> Updates:
    """Return the table hidden, for a dataset of one file or none."""
    return {files.group: gr.update(visible=False), files.shown: gr.update(value="")}


def set_updates(files: FilesTable, report: DataSummary, shown: str) -> Updates:
    """Return the table of a dataset that was read."""
    rows = [_row(part) for part in report.files]
    names = [(part.name, part.sha256) for part in report.files]
    return _updates(files, rows, names, shown)


def question_updates(
    files: FilesTable, stored: Sequence[tuple[str, str, Quota]], shown: str
) -> Updates:
    """Return the table of a dataset of which a file cannot be used yet.

    Args:
        files: the components.
        stored: name, id and share or cap of each file.
        shown: id of the file with the question.
    """
    rows = [[name, "–", *_typed(quota), "–"] for name, _, quota in stored]
    return _updates(files, rows, [(name, file_id) for name, file_id, _ in stored], shown)


def _updates(
    files: FilesTable, rows: list[list[str]], names: Sequence[tuple[str, str]], shown: str
) -> Updates:
    choices = [ALL_FILES, *((brief(name)[1:-1], file_id) for name, file_id in names)]
    return {
        files.group: gr.update(visible=True),
        files.table: gr.update(value=rows),
        files.shown: gr.update(choices=choices, value=shown),
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
