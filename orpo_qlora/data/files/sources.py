"""The files of a data set, how each is read and how much of it is taken. Floor 1; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from orpo_qlora.data.files.choices import Labelled, ReadChoices
from orpo_qlora.errors import InputError

NAMES_JOINED = 2
"""File names written out in the name of a data set; more are counted."""
_DEFAULT_CHOICES = ReadChoices()


class Quota(BaseModel):
    """How many of the pairs found in a file are taken; all of them if neither is set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: float | None = None
    """Part of the pairs found, above 0 and at most 1."""
    cap: int | None = None
    """Most pairs, at least 1."""

    def count(self, found: int) -> int:
        """Return how many of so many pairs are taken; at least one if there is one."""
        if self.cap is not None:
            return min(self.cap, found)
        if self.share is not None:
            return min(found, max(1, round(self.share * found)))
        return found

    def sentence(self) -> str:
        """Return the quota in words, empty if all pairs are taken."""
        if self.cap is not None:
            return f"cap {self.cap:,}"
        return "" if self.share is None else f"share {self.share:g}"


ALL = Quota()


class SourceFile(BaseModel):
    """One file of a data set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    source: str = ""
    """Name shown to the user; the path's own name if empty."""
    choices: ReadChoices = _DEFAULT_CHOICES
    quota: Quota = ALL

    @property
    def name(self) -> str:
        """The name shown to the user."""
        return self.source or Path(self.path).name


class FileSet(BaseModel):
    """The files of a data set in their order; most often one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: tuple[SourceFile, ...]
    sample_seed: int = 0
    """Decides which pairs a share or a cap takes."""
    fixes: tuple[str, ...] = ()
    """Fixes across files: `duplicate` and `contradiction`."""

    @classmethod
    def of_file(
        cls, path: Path, source: str = "", choices: ReadChoices = _DEFAULT_CHOICES
    ) -> FileSet:
        """Return one file, all of it."""
        return cls(files=(SourceFile(path=str(path), source=source, choices=choices),))

    @property
    def is_one_file(self) -> bool:
        """Whether it is a single file of which all pairs are taken."""
        return len(self.files) == 1 and self.files[0].quota == ALL

    def names(self) -> list[str]:
        """Return a different name for each file: equal names get a number."""
        names: list[str] = []
        for file in self.files:
            name, number = file.name, 1
            while name in names:
                number += 1
                name = f"{file.name} ({number})"
            names.append(name)
        return names

    def with_choices(self, choices: Mapping[int, ReadChoices]) -> FileSet:
        """Return the set with other choices for some files, by position."""
        files = tuple(
            file.model_copy(update={"choices": choices.get(place, file.choices)})
            for place, file in enumerate(self.files)
        )
        return self.model_copy(update={"files": files})

    def with_labelled(self, labelled: Labelled) -> FileSet:
        """Return the set with this reading of labelled responses, where none was chosen."""
        places = enumerate(self.files)
        chosen = {
            place: file.choices.model_copy(update={"labelled": labelled})
            for place, file in places
            if file.choices.labelled is None
        }
        return self.with_choices(chosen)


def joined_name(names: list[str]) -> str:
    """Return the name of a data set: “a.csv + b.jsonl”, “a.csv + 3 files”."""
    if len(names) <= NAMES_JOINED:
        return " + ".join(names)
    return f"{names[0]} + {len(names) - 1} files"


def parse_share(text: str, name: str) -> Quota:
    """Return the share that a user typed for a file: “0.25”, “25 %”.

    Raises:
        InputError: it is no number above 0 and up to 1.
    """
    plain = text.strip().replace(",", ".")
    try:
        share = float(plain.removesuffix("%")) / (100 if plain.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise InputError(
            f"“{text}” is no share of {name}.",
            hint="A share is above 0 and at most 1, such as 0.25.",
        )
    return Quota(share=share)


def parse_cap(text: str, name: str) -> Quota:
    """Return the cap that a user typed for a file: “500”.

    Raises:
        InputError: it is no whole number from 1.
    """
    plain = text.strip().replace(",", "").replace("_", "")
    if not plain.isdecimal() or not int(plain):
        raise InputError(
            f"“{text}” is no cap for {name}.", hint="A cap is a whole number of pairs, such as 500."
        )
    return Quota(cap=int(plain))
