"""What belongs to one run and leaves the page: its name and tags, its files, its settings. Floor 5.

Nothing is served from the home: a file is copied into the page's own temporary folder, by the run's
id and never by a path from the browser.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import gradio as gr

from orpo_qlora import storage
from orpo_qlora.data.export import write_clean
from orpo_qlora.errors import InputError
from orpo_qlora.runs import labels, metrics, store
from orpo_qlora.runs.store import Run, RunPaths
from orpo_qlora.ui.data import uploads
from orpo_qlora.ui.history import deletion
from orpo_qlora.ui.history.deletion import Deletion
from orpo_qlora.ui.parts import downloads
from orpo_qlora.ui.parts.guard import Updates

Kind = Literal["settings", "jsonl", "csv", "log"]
LABELS: dict[Kind, str] = {
    "settings": "Settings (YAML)",
    "jsonl": "Metrics (JSON Lines)",
    "csv": "Metrics (CSV)",
    "log": "Log",
}


@dataclass(frozen=True)
class RunHead:
    """Beside a run's actions: again with changes, back to the list, away with it."""

    again: gr.Button
    back: gr.Button
    deletion: Deletion


@dataclass(frozen=True)
class RunFiles:
    """The components."""

    head: RunHead
    name: gr.Textbox
    tags: gr.Textbox
    save: gr.Button
    buttons: dict[Kind, gr.Button]
    file: gr.File

    @property
    def label_outputs(self) -> list[Any]:
        """What shows the name and the tags."""
        return [self.name, self.tags]


def build_head_buttons() -> tuple[gr.Button, gr.Button, gr.Button]:
    """Return what any run has beside its actions: again, back to the list, delete."""
    return (
        gr.Button("Run again with changes", size="md", scale=0, min_width=210, elem_id="run-again"),
        gr.Button("Back to the list", size="md", scale=0, min_width=150, elem_id="run-back"),
        deletion.build_ask("run-delete"),
    )


def build_run_files(head: RunHead) -> RunFiles:
    """Return the components, empty."""
    with gr.Accordion("Name, tags and files", open=False, elem_id="run-files-fold"):
        with gr.Row(elem_classes="run-label-row"):
            name = gr.Textbox(
                label="Name",
                max_length=labels.NAME_CHARACTERS,
                elem_id="run-name",
                interactive=True,
                min_width=200,
            )
            tags = gr.Textbox(
                label="Tags",
                placeholder="separated by commas",
                elem_id="run-tags",
                interactive=True,
                min_width=200,
            )
            save = gr.Button("Save", scale=0, min_width=110, elem_id="run-label-save")
        with gr.Row(elem_classes="actions"):
            buttons = {
                kind: gr.Button(
                    label, size="md", scale=0, min_width=160, elem_id=f"run-download-{kind}"
                )
                for kind, label in LABELS.items()
            }
        file = gr.File(visible="hidden", label="Download", interactive=False)
    return RunFiles(head, name, tags, save, buttons, file)


def label_updates(part: RunFiles, run: Run) -> Updates:
    """Return the name and the tags of the run that is shown."""
    return {part.name: run.name, part.tags: ", ".join(run.label.tags)}


def save_label(run_id: str, name: str, tags: str) -> Run:
    """Give a run another name and other tags and return it.

    An empty name is the one it was ordered with.

    Raises:
        UnknownRun: there is no such run.
        InputError: the name or a tag is too long.
        DiskFull: the old label is kept.
    """
    run = store.read_run(store.paths_of(run_id))
    # The name of the settings is not repeated, so that it stays theirs.
    given = "" if name.strip() == run.config.name else name
    labels.write_label(run.paths.label, labels.label_of(given, tags))
    return store.read_run(run.paths)


def add_tag(ids: list[str], tag: str) -> None:
    """Add a tag to some runs.

    Raises:
        InputError: it is empty or too long, or a run has too many.
    """
    if not tag.strip():
        raise InputError("There is no tag to add.", hint="Write one beside the button.")
    for run_id in ids:
        run = store.read_run(store.paths_of(run_id))
        label = labels.label_of(run.label.name, [*run.label.tags, *tag.split(",")])
        labels.write_label(run.paths.label, label)


def make_file(run_id: str, kind: Kind) -> Path:
    """Write what a person asked for about a run, and return where.

    Raises:
        UnknownRun: there is no such run.
        InputError: it has no such file yet.
        DiskFull: there is no room for the copy.
    """
    run = store.read_run(store.paths_of(run_id))
    sources = {"settings": run.paths.config, "log": run.paths.log}
    source = sources.get(kind, run.paths.metrics)
    if not source.is_file():
        raise InputError(f"Run “{run.title}” has not written {source.name} yet.")
    target = downloads.fresh_folder() / f"{downloads.plain_name(f'{run.title}.')}-{source.name}"
    if kind == "csv":
        target = target.with_suffix(".csv")
        storage.write_whole(target, metrics_csv(source))
        return target
    with storage.disk_errors(target):
        shutil.copyfile(source, target)
    return target


def metrics_csv(path: Path) -> Iterator[str]:
    """Yield a metrics file as lines of a CSV: a column for each metric on either side of the data.

    Only numbers are written, so no cell can be a formula.
    """
    names = [*metrics.NAMES, *(f"{metrics.EVAL_PREFIX}{name}" for name in metrics.NAMES[2:])]
    yield ",".join(names) + "\r\n"
    offset, before = 0, -1
    while offset != before:
        before = offset
        records, offset = storage.read_json_lines(path, offset, 1_000_000)
        yield _csv_lines(records, names)


def _csv_lines(records: list[dict[str, object]], names: list[str]) -> str:
    memory = StringIO()
    writer = csv.writer(memory)
    for record in records:
        values = [record.get(name) for name in names]
        writer.writerow([value if isinstance(value, int | float) else "" for value in values])
    return memory.getvalue()


def dataset_of(paths: RunPaths) -> str:
    """Return the id of a kept file with the pairs of a run, as the run read them.

    Runs ordered on the command line have no kept file: their pairs are kept now.

    Raises:
        DiskFull: there is no room for the pairs.
    """
    run = store.read_run(paths)
    report = run.report
    if not uploads.is_stored(report.sha256):
        return _keep_pairs(run)
    if uploads.choices_of(report.sha256) != report.choices:
        uploads.choose(report.sha256, report.choices)
    return report.sha256


def _keep_pairs(run: Run) -> str:
    pairs = [*store.training_pairs(run.paths), *store.held_out_pairs(run.paths)]
    # In the order of the file, from which the same seed makes the same split.
    pairs.sort(key=lambda pair: pair.row)
    name = f"{Path(run.report.source).stem}.jsonl"
    file = downloads.fresh_folder() / "pairs.jsonl"
    write_clean(file, pairs)
    return uploads.store_upload(file, name)
