"""Messages between the chat's client and server, and their files. Floor 5; no torch.

A request is one JSON line, its replies are JSON lines. The server listens on loopback only; its
port and its token are in a file that only the owner can read.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from orpo_qlora import storage
from orpo_qlora.data.messages import Message
from orpo_qlora.models.generation.sampling import Sampling
from orpo_qlora.runs.state import ErrorCard

HOST = "127.0.0.1"
MAX_LINE_BYTES = 16_000_000
ENCODING = "utf-8"


class Address(BaseModel):
    """Where the chat process listens; `chat/server.json`."""

    model_config = ConfigDict(frozen=True)

    pid: int
    port: int
    token: str


class Column(BaseModel):
    """A model and its conversation; the last turn is the message to answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str = ""
    """The run whose adapter is on, empty for the base model alone."""
    turns: tuple[Message, ...] = ()


class Request(BaseModel):
    """A client's request."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    token: str
    kind: Literal["chat", "stop", "release", "status"]
    question: str = ""
    """Id of the question; a stop with an id ends that answer, one without ends all."""
    columns: tuple[Column, ...] = ()
    """At least one has a run, which decides the base, unless `base_of` does."""
    base_of: str = ""
    """A run whose base answers where no column has a run."""
    sampling: Sampling = Sampling()


class ChatStatus(BaseModel):
    """What the chat process has loaded, and whether it generates."""

    model_config = ConfigDict(frozen=True)

    pid: int
    model: str = ""
    """Base model in memory, empty when none."""
    runs: tuple[str, ...] = ()
    """Runs whose adapters are in memory."""
    device: str = ""
    is_answering: bool = False


class Reply(BaseModel):
    """One line of a reply: a note, text to append, an error, or a status."""

    model_config = ConfigDict(frozen=True)

    note: str = ""
    adapters: tuple[str, ...] = ()
    """SHA-256 of the adapter of each column as it was loaded, empty where it is off; sent once."""
    texts: tuple[str, ...] = ()
    """New text of each column."""
    ended: tuple[int, ...] = ()
    """Columns that end with this line."""
    cut: tuple[int, ...] = ()
    """Those of them that ended at the longest answer."""
    tokens_per_second: float = 0.0
    """In each column, since the first token."""
    prompt_tokens: tuple[int, ...] = ()
    """Tokens of each column's conversation; sent once."""
    tokens: tuple[int, ...] = ()
    """Tokens of each column's answer with the end token; sent at the end."""
    is_done: bool = False
    error: ErrorCard | None = None
    status: ChatStatus | None = None


def to_line(message: Request | Reply) -> bytes:
    """Return a message as one line of JSON."""
    return message.model_dump_json().encode(ENCODING) + b"\n"


def folder() -> Path:
    """Return the chat's private folder, made if missing."""
    path = storage.home() / "chat"
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def lock_file() -> Path:
    """Return the file that the chat process keeps locked while it lives."""
    return folder() / "lock"


def log_file() -> Path:
    """Return the log of the chat process."""
    return folder() / "log.txt"


def address_file() -> Path:
    """Return the file with the address of the running chat process."""
    return folder() / "server.json"


def write_address(address: Address) -> None:
    """Publish the address in a file that is never readable by others."""
    path = address_file()
    storage.sweep_temporaries(path)  # only one chat process lives at a time
    with storage.replacing(path) as draft:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding=ENCODING) as file:
            file.write(address.model_dump_json())


def read_address() -> Address | None:
    """Return the published address, or None; its process may be dead."""
    try:
        return Address.model_validate_json(address_file().read_text(encoding=ENCODING))
    except (FileNotFoundError, ValidationError):
        return None
