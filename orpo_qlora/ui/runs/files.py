"""Name, tags, files and settings of one run: edited, downloaded, used again, deleted.

Nothing is served from the home: a file is copied into the page's temporary folder, by the run's id
and never by a path from the browser.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import gradio as gr

from orpo_qlora import storage
from orpo_qlora.data.export import write_clean
from orpo_qlora.data.files.combine import pinned_choices
from orpo_qlora.data.summary import DataSummary
from orpo_qlora.errors import InputError
from orpo_qlora.runs import labels, store
from orpo_qlora.runs.curves import metrics
from orpo_qlora.runs.store import Run, RunPaths
from orpo_qlora.ui.data import tab as data_tab
from orpo_qlora.ui.data import uploads
from orpo_qlora.ui.data.tab import DataTab
from orpo_qlora.ui.data.uploads import StoredFile, StoredSet
from orpo_qlora.ui.history import deletion
from orpo_qlora.ui.history.deletion import Deletion, connect_deletion
from orpo_qlora.ui.history.shown import Shown
from orpo_qlora.ui.parts import downloads, form
from orpo_qlora.ui.parts.events import QUIET, UNCHECKED
from orpo_qlora.ui.parts.form import Form
from orpo_qlora.ui.parts.guard import Updates, guarded
from orpo_qlora.ui.runs.actions import Render

Kind = Literal["settings", "jsonl", "csv", "log"]
LABELS: dict[Kind, str] = {
    "settings": "Settings (YAML)",
    "jsonl": "Metrics (JSON Lines)",
    "csv": "Metrics (CSV)",
    "log": "Log",
}


@dataclass(frozen=True)
class RunHead:
    """Buttons of every run: run again, back to the list, delete."""

    again: gr.Button
    back: gr.Button
    delete: gr.Button


@dataclass(frozen=True)
class RunLabelFields:
    """The inputs for name and tags."""

    name: gr.Textbox
    tags: gr.Textbox
    save: gr.Button

    @property
    def outputs(self) -> list[Any]:
        """The inputs that a run fills."""
        return [self.name, self.tags]


@dataclass(frozen=True)
class RunFiles:
    """Buttons of every run, and its downloads."""

    head: RunHead
    deletion: Deletion
    buttons: dict[Kind, gr.Button]
    file: gr.File


def build_run_head() -> RunHead:
    """Return the buttons."""
    again = gr.Button(
        "Run again with changes", size="md", scale=0, min_width=210, elem_id="run-again"
    )
    back = gr.Button("Back to list", size="md", scale=0, min_width=150, elem_id="run-back")
    return RunHead(again, back, deletion.build_delete_button("run-delete"))


def build_run_files(head: RunHead, removal: Deletion) -> RunFiles:
    """Return the downloads with the buttons and the confirmation built before."""
    with gr.Row(elem_classes="actions"):
        buttons = {
            kind: gr.Button(
                label, size="md", scale=0, min_width=160, elem_id=f"run-download-{kind}"
            )
            for kind, label in LABELS.items()
        }
    file = gr.File(
        visible="hidden", label="Download", interactive=False, elem_classes="download-target"
    )
    return RunFiles(head, removal, buttons, file)


def build_run_label() -> RunLabelFields:
    """Return the inputs for name and tags, empty."""
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
    return RunLabelFields(name, tags, save)


def label_updates(part: RunLabelFields, run: Run) -> Updates:
    """Fill in the name and tags of a run."""
    return {part.name: run.name, part.tags: ", ".join(run.label.tags)}


def save_label(run_id: str, name: str, tags: str) -> Run:
    """Change a run's name and tags and return it.

    An empty name restores the one in its settings.

    Raises:
        UnknownRun: there is no such run.
        InputError: the name or a tag is too long.
        DiskFull: the old label is kept.
    """
    run = store.read_run(store.paths_of(run_id))
    # The name in the settings is not copied into the label.
    given = "" if name.strip() == run.config.name else name
    labels.write_label(run.paths.label, labels.label_of(given, tags))
    return store.read_run(run.paths)


def make_file(run_id: str, kind: Kind) -> Path:
    """Copy a file of a run for download and return its path.

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
    """Yield a metrics file as CSV lines, a column for each metric on training and held-out pairs.

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
    """Return the id of a stored dataset with the pairs of a run, read with the same choices.

    Runs started on the command line have no stored dataset: one is written now.

    Raises:
        DiskFull: there is no room for the pairs.
    """
    run = store.read_run(paths)
    report = run.report
    if report.files:
        return _dataset_of_files(report) or _keep_pairs(run)
    if not uploads.is_stored(report.sha256):
        return _keep_pairs(run)
    choices = pinned_choices(report)  # other columns may be remembered by now
    if uploads.choices_of(report.sha256) != choices:
        uploads.choose(report.sha256, choices)
    return report.sha256


def _dataset_of_files(report: DataSummary) -> str:
    """Return the id of the files of a run, read with the same choices; empty if one is gone."""
    if not all(uploads.is_stored(part.sha256) for part in report.files):
        return ""
    for part in report.files:
        choices = pinned_choices(part.summary)
        if uploads.choices_of(part.sha256) != choices:
            uploads.choose(part.sha256, choices)
    files = tuple(StoredFile(id=part.sha256, quota=part.quota) for part in report.files)
    fixes, seed = report.choices.fixes, report.sample_seed
    return uploads.store_set(StoredSet(files=files, sample_seed=seed, fixes=fixes))


def _keep_pairs(run: Run) -> str:
    pairs = [*store.training_pairs(run.paths), *store.held_out_pairs(run.paths)]
    # In the order of the file, so that the same seed makes the same split.
    pairs.sort(key=lambda pair: pair.row)
    name = f"{Path(run.report.source).stem}.jsonl"
    file = downloads.fresh_folder() / "pairs.jsonl"
    write_clean(file, pairs)
    return uploads.store_upload(file, name)


def connect_run_label(part: RunLabelFields, render: Render) -> None:
    """Connect name and tags."""

    def on_save(run_id: str, *values: Any) -> Updates:  # noqa: ANN401 - the inputs' values
        *chosen, name, tags = values
        run = save_label(run_id, name, tags)
        return {**render.update(run_id, *chosen), **label_updates(part, run)}

    gr.on(
        [part.save.click, part.name.submit, part.tags.submit],
        guarded(render.card, on_save),
        [*render.inputs, part.name, part.tags],
        [*render.outputs, *part.outputs],
        trigger_mode="once",
        **QUIET,
    )


def connect_run_files(part: RunFiles, shown: Shown) -> None:
    """Connect downloads, deletion and the way back to the list."""

    def on_download(kind: Kind, run_id: str) -> Updates:
        return {part.file: str(make_file(run_id, kind))}

    for kind, button in part.buttons.items():
        # A million lines take a while: queued, with Gradio's spinner.
        handler = guarded(shown.card, partial(on_download, kind))
        parts = [shown.card, part.file]
        event = button.click(handler, shown.run, parts, trigger_mode="once", **UNCHECKED)
        event.success(None, part.file, None, js=downloads.SAVE, **QUIET)
    part.head.back.click(None, None, [shown.run, shown.card], js="() => ['', '']")
    connect_deletion(part.deletion, shown.run, shown.card)
    # A confirmation belongs to the run it was opened for.
    closed = deletion.closed_updates(part.deletion)
    shown.run.change(lambda: closed, None, list(closed), **QUIET)


def connect_again(
    button: gr.Button, shown: Shown, data: DataTab, settings: Form, tabs: gr.Tabs
) -> Any:  # noqa: ANN401 - gradio's dependency
    """Fill data and settings from the run that is shown; return the event, which changes both."""

    def on_again(run_id: str) -> Updates:
        paths = store.paths_of(run_id)
        run = store.read_run(paths)
        config = run.config.model_copy(update={"name": run.name})
        filled = dict(zip(settings.inputs, form.updates_of(config), strict=True))
        opened = data_tab.dataset_updates(data, dataset_of(paths))
        return {**opened, **filled, tabs: gr.Tabs(selected="train")}

    parts = [shown.card, tabs, *data.outputs, *settings.inputs]
    handler = guarded(shown.card, on_again)
    return button.click(handler, shown.run, parts, trigger_mode="once", **QUIET)
