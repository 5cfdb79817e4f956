"""What the user chose for a file, remembered for files with the same columns. Floor 1; no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from orpo_qlora import storage
from orpo_qlora.data.columns import ColumnMapping
from orpo_qlora.data.files.choices import PairsFromRanking

KEPT = 200
"""Choices kept of each kind; the oldest is forgotten first."""
Choice = TypeVar("Choice")


class _Memory(Generic[Choice]):
    """One kind of choice, by the columns of a file in any order; a file in the home folder."""

    def __init__(self, name: str, choices: TypeAdapter[dict[str, Choice]]) -> None:
        self._name, self._choices = name, choices

    @property
    def _path(self) -> Path:
        return storage.home() / "datasets" / self._name

    def _read(self) -> dict[str, Choice]:
        try:
            return self._choices.validate_json(self._path.read_bytes())
        except (FileNotFoundError, ValidationError):
            # If it is missing or damaged the user chooses again.
            return {}

    def recall(self, columns: Sequence[str]) -> Choice | None:
        """Return what was chosen for a file with these columns."""
        return self._read().get(_key(columns))

    def remember(self, columns: Sequence[str], choice: Choice) -> None:
        """Keep a choice for the next file with these columns."""
        key = _key(columns)
        with storage.FileLock(self._path.with_suffix(".lock")):
            known = self._read()
            if known.get(key) == choice:
                return
            known.pop(key, None)
            known[key] = choice
            self._write(known)

    def forget(self, columns: Sequence[str]) -> None:
        """Forget what was chosen for files with these columns."""
        with storage.FileLock(self._path.with_suffix(".lock")):
            known = self._read()
            if known.pop(_key(columns), None):
                self._write(known)

    def _write(self, known: dict[str, Choice]) -> None:
        kept = dict(list(known.items())[-KEPT:])
        storage.write_whole(self._path, self._choices.dump_json(kept).decode())


def _key(columns: Sequence[str]) -> str:
    return json.dumps(sorted(columns), ensure_ascii=False)


_MAPPINGS = _Memory("columns.json", TypeAdapter(dict[str, ColumnMapping]))
_RANKINGS = _Memory("rankings.json", TypeAdapter(dict[str, PairsFromRanking]))
recall_mapping, remember_mapping = _MAPPINGS.recall, _MAPPINGS.remember
recall_ranking, remember_ranking = _RANKINGS.recall, _RANKINGS.remember


def forget_columns(columns: Sequence[str]) -> None:
    """Forget everything that was chosen for files with these columns."""
    _MAPPINGS.forget(columns)
    _RANKINGS.forget(columns)
