"""Columns the user chose, remembered for files with the same columns. Floor 1; no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from orpo_qlora import storage
from orpo_qlora.data.columns import ColumnMapping

KEPT = 200
"""Choices kept; the oldest is forgotten first."""
_MAPPINGS = TypeAdapter(dict[str, ColumnMapping])


def _path() -> Path:
    return storage.home() / "datasets" / "columns.json"


def _key(columns: Sequence[str]) -> str:
    return json.dumps(sorted(columns), ensure_ascii=False)


def _read() -> dict[str, ColumnMapping]:
    try:
        return _MAPPINGS.validate_json(_path().read_bytes())
    except (FileNotFoundError, ValidationError):
        # If it is missing or damaged the user chooses again.
        return {}


def recall_mapping(columns: Sequence[str]) -> ColumnMapping | None:
    """Return the columns chosen for a file with these columns, in any order."""
    return _read().get(_key(columns))


def remember_mapping(columns: Sequence[str], mapping: ColumnMapping) -> None:
    """Keep a choice for the next file with these columns."""
    key = _key(columns)
    with storage.FileLock(_path().with_suffix(".lock")):
        known = _read()
        if known.get(key) == mapping:
            return
        known.pop(key, None)
        known[key] = mapping
        _write(known)


def forget_mapping(columns: Sequence[str]) -> None:
    """Forget the columns chosen for files with these columns."""
    with storage.FileLock(_path().with_suffix(".lock")):
        known = _read()
        if known.pop(_key(columns), None):
            _write(known)


def _write(known: dict[str, ColumnMapping]) -> None:
    kept = dict(list(known.items())[-KEPT:])
    text = json.dumps({name: asdict(one) for name, one in kept.items()}, ensure_ascii=False)
    storage.write_whole(_path(), text)
