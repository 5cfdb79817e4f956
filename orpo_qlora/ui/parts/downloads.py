"""The cleaned file and the report to take away. Floor 5; page process.

Nothing is served from the home: what a person asks for is written into the page's own temporary
folder, by the dataset's id and never by a path from the browser.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gradio as gr

from orpo_qlora.data.export import write_clean, write_report
from orpo_qlora.ui.data import uploads
from orpo_qlora.ui.parts.guard import Updates

Kind = Literal["csv", "jsonl", "report"]
LABELS: dict[Kind, str] = {
    "csv": "Pairs as CSV",
    "jsonl": "Pairs as JSON Lines",
    "report": "Report",
}
FOLDERS_KEPT = 4
NAME_CHARACTERS = 60
SAVE = (
    "(file) => { if (!file) { return; } const link = document.createElement('a');"
    " link.href = file.url; link.download = file.orig_name; link.click(); }"
)
"""Script that lets the browser save the file a handler has just made."""


@dataclass(frozen=True)
class Downloads:
    """The components: a button for each kind, and where the made file passes through."""

    row: gr.Row
    buttons: dict[Kind, gr.Button]
    file: gr.File


def build_downloads() -> Downloads:
    """Return the components, hidden until there are pairs."""
    with gr.Row(visible=False, elem_classes="actions", elem_id="data-downloads") as row:
        gr.HTML('<p class="label">Download</p>', elem_id="data-downloads-label")
        buttons = {
            kind: gr.Button(
                label, size="md", scale=0, min_width=190, elem_id=f"data-download-{kind}"
            )
            for kind, label in LABELS.items()
        }
    return Downloads(row, buttons, gr.File(visible="hidden", label="Download", interactive=False))


def make_file(dataset_id: str, kind: Kind) -> Path:
    """Write what a person asked for about a kept file, and return where.

    Raises:
        InputError: the file is not kept any more, or a text cannot stand in a CSV.
        DiskFull: nothing is left behind.
    """
    dataset = uploads.open_dataset(dataset_id)
    stem = plain_name(dataset.report.source)
    folder = fresh_folder()
    if kind == "report":
        path = folder / f"{stem}-report.json"
        write_report(path, dataset.report)
    else:
        path = folder / f"{stem}-cleaned.{kind}"
        write_clean(path, dataset.pairs)
    return path


def plain_name(source: str) -> str:
    """Return a file's name without its ending and without what a file system may refuse."""
    return re.sub(r"[^\w-]+", "-", Path(source).stem).strip("-")[:NAME_CHARACTERS] or "pairs"


def fresh_folder() -> Path:
    """Return a new folder for one download; the page has copies of the older ones."""
    root = Path(tempfile.gettempdir()) / "downloads"
    root.mkdir(mode=0o700, exist_ok=True)
    older = sorted(root.iterdir(), key=lambda path: path.stat().st_mtime)
    for folder in older[: max(0, len(older) - FOLDERS_KEPT + 1)]:
        shutil.rmtree(folder, ignore_errors=True)
    return Path(tempfile.mkdtemp(dir=root))


def download_updates(downloads: Downloads, dataset_id: str, kind: Kind) -> Updates:
    """Return the made file, which the browser saves next."""
    return {downloads.file: str(make_file(dataset_id, kind))}
