"""Names and tags of runs: the default name, and a label the user may edit at any time.

`config.yaml` is written once, so an edited name is stored in `label.json`. A damaged or missing
label counts as empty: nothing else depends on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orpo_qlora import methods, storage
from orpo_qlora.config import TrainConfig
from orpo_qlora.errors import InputError
from orpo_qlora.models.catalogue import find_model
from orpo_qlora.runs.file_cache import FileMemory

NAME_CHARACTERS = 80
TAG_CHARACTERS = 40
MOST_TAGS = 12


class RunLabel(BaseModel):
    """A name and tags; an empty name means the one in the settings.

    `varied` names the settings that the run's sweep varies.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str = Field(default="", max_length=NAME_CHARACTERS)
    tags: tuple[str, ...] = ()
    varied: tuple[str, ...] = ()


NO_LABEL = RunLabel()


def default_name(source: str, config: TrainConfig) -> str:
    """Return the default name of a run: “short_answers · SmolLM2 135M · λ 0.1”.

    Args:
        source: name of the data file.
        config: the run's settings.
    """
    entry = find_model(config.model)
    title = entry.title.removesuffix(" Instruct") if entry else Path(config.model).name
    return " · ".join((_stem(source), title, methods.short_name(config)))


def _stem(source: str) -> str:
    # Several files are “a.csv + b.jsonl”.
    return " + ".join(Path(name).stem for name in source.split(" + "))


def label_of(name: str, tags: str | Iterable[str]) -> RunLabel:
    """Parse a typed label; tags are separated by commas.

    Raises:
        InputError: it is too long, or has too many tags.
    """
    typed = re.split(r"[,\n]", tags) if isinstance(tags, str) else tags
    # Tags that differ only in case are one tag, in the first spelling.
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
            hint="Separate tags by commas and remove some.",
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
    """Replace the label in a file; without `varied` the recorded one is kept.

    Raises:
        DiskFull: the old label is kept.
    """
    if not label.varied:
        label = label.model_copy(update={"varied": read_label(path).varied})
    storage.write_whole(path, label.model_dump_json(indent=1))
