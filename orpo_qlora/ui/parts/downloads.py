"""Files made for one download, in the page's temporary folder; nothing is served from the home."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from orpo_qlora import storage

FOLDERS_KEPT = 4
NAME_CHARACTERS = 60
SAVE = (
    "(file) => { if (!file) { return; } const link = document.createElement('a');"
    " link.href = file.url; link.download = file.orig_name; link.click(); }"
)
"""Script that makes the browser save the file a handler has returned."""


def plain_name(source: str) -> str:
    """Return a file's stem with only letters, digits, `_` and `-`; “pairs” if nothing is left."""
    return re.sub(r"[^\w-]+", "-", Path(source).stem).strip("-")[:NAME_CHARACTERS] or "pairs"


def fresh_folder() -> Path:
    """Return a new folder for one download and delete all but the latest `FOLDERS_KEPT`."""
    root = Path(tempfile.gettempdir()) / "downloads"
    root.mkdir(mode=0o700, exist_ok=True)
    older = storage.oldest_first(root.iterdir())
    for folder in older[: max(0, len(older) - FOLDERS_KEPT + 1)]:
        shutil.rmtree(folder, ignore_errors=True)
    return Path(tempfile.mkdtemp(dir=root))
