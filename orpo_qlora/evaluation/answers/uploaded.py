"""Prompt sets that were uploaded on the page, by the hash of their content. Floor 5; no torch."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from pydantic import ValidationError

from orpo_qlora import storage
from orpo_qlora.evaluation.answers.prompts import PromptSet

FOLDER = "prompts"
MOST_KEPT = 20
_KEY = re.compile(r"[0-9a-f]{32}")


def store_prompts(prompts: PromptSet) -> str:
    """Keep a prompt set in the home and return its key; the oldest make room.

    Raises:
        DiskFull: nothing is stored.
    """
    content = prompts.model_dump_json()
    key = hashlib.sha256(content.encode()).hexdigest()[:32]
    storage.write_whole(_file(key), content)
    for old in storage.oldest_first(_file(key).parent.glob("*.json"))[:-MOST_KEPT]:
        old.unlink(missing_ok=True)
    return key


def stored_prompts(key: str) -> PromptSet | None:
    """Return the prompt set of a key, None if it is not kept."""
    if not _KEY.fullmatch(key):
        return None
    try:
        return PromptSet.model_validate_json(_file(key).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _file(key: str) -> Path:
    folder = storage.home() / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / f"{key}.json"
