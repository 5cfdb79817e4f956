"""Where the safetensors copies of models with pickled weights are. Floor 1; no torch."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from orpo_qlora import storage
from orpo_qlora.models.trust import PICKLED_INDEX

RECORD = "converted.json"
_SNAPSHOT = re.compile(r"models--[^/]+/snapshots/[0-9a-f]{40}$")


def converted_folder(source: Path) -> Path:
    """Return where the copy of a model folder belongs, whether it is there or not.

    A snapshot of the hub keeps the end of its path, which names its repository and commit.
    """
    root = storage.home() / "models" / "converted"
    found = _SNAPSHOT.search(str(source))
    if found:
        return root / found[0]
    return root / hashlib.sha256(str(source).encode()).hexdigest()[:12] / source.name


def converted_copy(source: Path) -> Path | None:
    """Return the complete copy of a model folder, None without one or if the source has changed."""
    copy = converted_folder(source)
    try:
        record = json.loads((copy / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return copy if record.get("files") == source_files(source) else None


def source_files(source: Path) -> list[list[object]]:
    """Return name, size and time of change of a folder's pickled files and their index."""
    patterns = ("pytorch_model*.bin", PICKLED_INDEX, "config.json")
    return [list(stamp) for stamp in storage.stamps(source, patterns)]
