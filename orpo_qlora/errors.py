"""The errors a user may see. Ground floor; every process.

OrpoQloraError                 exit code
├─ InputError            2     the user's input cannot be used
│  ├─ DataError          20    the file, with its row and column
│  │  ├─ NeedsEncoding         the user must choose the encoding
│  │  ├─ NeedsColumns          the user must choose the columns
│  │  └─ BrokenRows            the user may skip the unreadable rows
│  ├─ ConfigError        2     every wrong setting at once
│  └─ UnknownRun         2
├─ ModelError            24    the base model or the demo model
│  ├─ ModelNotFound
│  ├─ NoChatTemplate
│  └─ UnsupportedModel
├─ ResourceError         1
│  ├─ OutOfMemory        21
│  ├─ DiskFull           22
│  └─ Busy               1     another run or chat holds the machine
└─ TrainingError         1
   ├─ NonFiniteLoss      23
   ├─ CheckpointError    25    no checkpoint can be used, or it belongs to another training
   └─ WorkerLost         1

The exit codes above are the worker's. The command line maps every InputError to 2 and every other
failure to 1, so that scripts can distinguish wrong input from a failure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


class OrpoQloraError(Exception):
    """A failure whose message is written for the user.

    `message` is one sentence with the fact and the place; `hint` is the way out. `slug` names the
    kind of failure in `state.json` and never changes once released.
    """

    exit_code: ClassVar[int] = 1
    slug: ClassVar[str] = "error"

    def __init__(self, message: str, *, hint: str = "", where: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.where = where

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class InputError(OrpoQloraError):
    """The user's input cannot be used."""

    exit_code = 2
    slug = "input"


class DataError(InputError):
    """The preference file cannot be used; `where` names the file, row or column."""

    exit_code = 20
    slug = "data"


@dataclass(frozen=True)
class EncodingCandidate:
    """A candidate encoding of a file, with a preview."""

    encoding: str
    """Name for `ReadChoices.encoding` and `--encoding`."""
    label: str
    preview: str
    """A line of the file, read this way."""


class NeedsEncoding(DataError):
    """The file is text but not Unicode; only the user can choose its encoding.

    `candidates` are the encodings that fit, the likeliest first; empty if none does.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        where: str = "",
        candidates: tuple[EncodingCandidate, ...] = (),
    ) -> None:
        super().__init__(message, hint=hint, where=where)
        self.candidates = candidates


@dataclass(frozen=True)
class PromptProposal:
    """One row as it reads if the common beginning of both texts is the prompt."""

    row: int
    prompt: str
    chosen: str
    rejected: str


class NeedsColumns(DataError):
    """The columns of a preference cannot be inferred from their names.

    `columns` are the file's own; `found` maps the recognised parts, such as `prompt`, to theirs,
    and `shape` to the recognised shape; `has_header` is whether a first line may name them, as in a
    CSV; `proposal` is a reading to confirm.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        where: str = "",
        columns: tuple[str, ...] = (),
        found: dict[str, str] | None = None,
        has_header: bool = True,
        proposal: PromptProposal | None = None,
    ) -> None:
        super().__init__(message, hint=hint, where=where)
        self.columns = columns
        self.found = found or {}
        self.has_header = has_header
        self.proposal = proposal


class BrokenRows(DataError):
    """Some rows cannot be read; with `fix` among the fixes they are left out and counted."""

    fix: ClassVar[str] = "broken-rows"


class ConfigError(InputError):
    """One or more settings are wrong; the message lists all of them."""

    slug = "config"


class UnknownRun(InputError):
    """No run with that id or name in the home folder."""

    slug = "unknown-run"


class ModelError(OrpoQloraError):
    """The base model cannot be used."""

    exit_code = 24
    slug = "model"


class ModelNotFound(ModelError):
    """Neither a local folder nor a reachable hub has the model."""

    slug = "model-not-found"


class NoChatTemplate(ModelError):
    """The tokenizer has no chat template, so plain text cannot become a conversation."""

    slug = "no-chat-template"


class UnsupportedModel(ModelError):
    """The model needs remote code or pickled weights, or its architecture cannot be trained."""

    slug = "unsupported-model"


class ResourceError(OrpoQloraError):
    """The machine lacks memory, disk space or a free device."""

    slug = "resource"


class OutOfMemory(ResourceError):
    """GPU or host memory is used up."""

    exit_code = 21
    slug = "out-of-memory"


class DiskFull(ResourceError):
    """The disk that holds the home folder is full."""

    exit_code = 22
    slug = "disk-full"


class Busy(ResourceError):
    """Another run or the chat holds the machine."""

    slug = "busy"


class TrainingError(OrpoQloraError):
    """The run itself failed."""

    slug = "training"


class NonFiniteLoss(TrainingError):
    """The loss or a gradient became NaN or infinite; `where` names the rows of the step."""

    exit_code = 23
    slug = "non-finite-loss"


class CheckpointError(TrainingError):
    """The run cannot resume from a checkpoint; the message lists every reason."""

    exit_code = 25
    slug = "checkpoint"


class WorkerLost(TrainingError):
    """A background program ended without recording why."""

    slug = "worker-lost"


def class_of(slug: str) -> type[OrpoQloraError]:
    """Return the class that a slug names; OrpoQloraError if none that is imported has it."""
    kinds: list[type[OrpoQloraError]] = [OrpoQloraError]
    for kind in kinds:  # grows: a subclass that inherits a slug comes after its parent
        kinds += kind.__subclasses__()
    return next((kind for kind in kinds if kind.slug == slug), OrpoQloraError)
