"""What a person calls a run afterwards: a name and tags, in a small file of their own. Floor 3.

`config.yaml` is written once, so a new name cannot go there. A damaged or missing label is an empty
one: nothing of a run depends on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orpo_qlora import storage
from orpo_qlora.errors import InputError
from orpo_qlora.runs.file_cache import FileMemory

NAME_CHARACTERS = 80
TAG_CHARACTERS = 40
MOST_TAGS = 12


class RunLabel(BaseModel):
    """A name and tags; an empty name leaves the one of the settings."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str = Field(default="", max_length=NAME_CHARACTERS)
    tags: tuple[str, ...] = ()


NO_LABEL = RunLabel()


def label_of(name: str, tags: str | Iterable[str]) -> RunLabel:
    """Return a label as a person typed it; tags are separated by commas.

    Raises:
        InputError: it is too long, or has too many tags.
    """
    typed = re.split(r"[,\n]", tags) if isinstance(tags, str) else tags
    # The same word in other letters is the same tag; the first spelling stays.
    found = {tag.casefold(): tag for tag in reversed([*map(_on_one_line, typed)]) if tag}
    kept = tuple(reversed(found.values()))
    plain = _on_one_line(name)
    if len(plain) > NAME_CHARACTERS:
        raise InputError(
            f"A run's name has at most {NAME_CHARACTERS} characters; this one has {len(plain)}.",
            hint="Shorten it.",
        )
    long = [tag for tag in kept if len(tag) > TAG_CHARACTERS]
    if long or len(kept) > MOST_TAGS:
        raise InputError(
            f"A run has at most {MOST_TAGS} tags of at most {TAG_CHARACTERS} characters each.",
            hint="Separate tags by commas, and leave some out.",
        )
    return RunLabel(name=plain, tags=kept)


def _on_one_line(text: str) -> str:
    return " ".join(text.split())


def _parsed(path: Path) -> RunLabel:
    try:
        return RunLabel.model_validate_json(path.read_bytes())
    except ValidationError:
        return NO_LABEL


_labels = FileMemory(_parsed)


def read_label(path: Path) -> RunLabel:
    """Return the label in a file, an empty one if there is none."""
    try:
        return _labels.of(path)
    except FileNotFoundError:
        return NO_LABEL


def write_label(path: Path, label: RunLabel) -> None:
    """Replace the label in a file.

    Raises:
        DiskFull: the old label is kept.
    """
    storage.write_whole(path, label.model_dump_json(indent=1))
