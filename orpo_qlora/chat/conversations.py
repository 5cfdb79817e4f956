"""Conversations on disk: messages, answers and votes. Floor 5; no torch.

One file each, `chat/conversations/<id>.json` under the home, replaced atomically: a page that was
closed, reloaded or killed shows the conversation again. The page's address carries the id.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from orpo_qlora import storage
from orpo_qlora.chat import protocol
from orpo_qlora.chat.client import ChatSettings
from orpo_qlora.data.messages import Message
from orpo_qlora.errors import InputError

CONVERSATION_ID = re.compile(r"^[0-9a-f]{32}\Z")
KEPT = 200
"""Conversations that are kept; the one changed longest ago is removed first."""

Vote = Literal["", "a", "b", "tie", "bad"]


class Answer(BaseModel):
    """Text of one column, and the proof of which adapter generated it."""

    model_config = ConfigDict(frozen=True)

    run: str = ""
    """Empty for the base model alone."""
    title: str = "Base model"
    """Title of the run when it answered; a run can be removed later."""
    sha256: str = ""
    """Of the adapter's weights as they were loaded; empty with the adapter off."""
    text: str = ""
    is_whole: bool = False
    """Whether it ended by itself or at the longest answer."""
    is_cut: bool = False
    """Whether that end was the longest answer."""


class Exchange(BaseModel):
    """One message and its answers, in the order they are shown."""

    model_config = ConfigDict(frozen=True)

    id: str
    message: str
    settings: ChatSettings
    model: str = ""
    """The base model of every column."""
    answers: tuple[Answer, ...]
    is_blind: bool = False
    vote: Vote = ""
    note: str = ""
    """Why it ended early."""

    @property
    def is_votable(self) -> bool:
        """Whether a blind question has both answers and no vote."""
        is_whole = all(answer.is_whole for answer in self.answers)
        return self.is_blind and not self.vote and is_whole

    @property
    def hides_names(self) -> bool:
        """Whether the models' names are hidden until the vote."""
        return self.is_blind and not self.vote

    @property
    def preferred(self) -> Answer:
        """The answer that a shared conversation continues from: the better one, else the first."""
        return self.answers[1 if self.vote == "b" else 0]


class Conversation(BaseModel):
    """Messages and answers of one page, oldest first."""

    model_config = ConfigDict(frozen=True)

    id: str
    exchanges: tuple[Exchange, ...] = ()

    @property
    def last(self) -> Exchange | None:
        """The newest question."""
        return self.exchanges[-1] if self.exchanges else None

    def before(self, exchange_id: str) -> Conversation:
        """Return the part before a question, everything if the question is not in it."""
        ids = [exchange.id for exchange in self.exchanges]
        end = ids.index(exchange_id) if exchange_id in ids else len(ids)
        return self.model_copy(update={"exchanges": self.exchanges[:end]})

    def with_exchange(self, exchange: Exchange) -> Conversation:
        """Return it with a question appended, or replaced where the id is there already."""
        others = {other.id: other for other in self.exchanges} | {exchange.id: exchange}
        return self.model_copy(update={"exchanges": tuple(others.values())})

    def refreshed(self, kept: Conversation) -> Conversation:
        """Return it with its questions as they are on disk; others are unchanged."""
        newer = {exchange.id: exchange for exchange in kept.exchanges}
        exchanges = tuple(newer.get(exchange.id, exchange) for exchange in self.exchanges)
        return self.model_copy(update={"exchanges": exchanges})

    def turns_of(self, run: str) -> tuple[Message, ...]:
        """Return a column's history: its own answers, else the preferred ones."""
        own = [
            next((answer for answer in exchange.answers if answer.run == run), exchange.preferred)
            for exchange in self.exchanges
        ]
        return self._turns(own)

    def shared_turns(self) -> tuple[Message, ...]:
        """Return the history of both sides of a blind question: the preferred answers."""
        return self._turns([exchange.preferred for exchange in self.exchanges])

    def _turns(self, answers: Sequence[Answer]) -> tuple[Message, ...]:
        turns: list[Message] = []
        for exchange, answer in zip(self.exchanges, answers, strict=True):
            # Messages without an answer are skipped: turns must alternate.
            if answer.text:
                turns += [Message("user", exchange.message), Message("assistant", answer.text)]
        return tuple(turns)


def new_id() -> str:
    """Return a new id for a conversation or question."""
    return uuid.uuid4().hex


def load(conversation_id: str) -> Conversation:
    """Return a conversation from disk; an empty one if it does not exist.

    Raises:
        InputError: the id is invalid, or its file cannot be read.
    """
    if not CONVERSATION_ID.match(conversation_id):
        raise InputError(
            "The conversation id in this page's address is invalid.",
            hint="Press “New conversation”.",
        )
    path = _file(conversation_id)
    try:
        return Conversation.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Conversation(id=conversation_id)
    except ValidationError as exc:
        raise InputError(
            "This conversation cannot be read: its file is damaged or from another version.",
            hint="Press “New conversation”; the file is left unchanged.",
            where=str(path),
        ) from exc


def save(conversation: Conversation) -> None:
    """Write a conversation to disk.

    Raises:
        DiskFull: the earlier file is kept.
    """
    path = _file(conversation.id)
    is_new = not path.exists()
    storage.write_whole(path, conversation.model_dump_json())
    if is_new:
        _remove_oldest()


def update(conversation_id: str, exchange: Exchange) -> Conversation:
    """Save a question's latest state in its conversation, and return the conversation.

    A question that was regenerated or edited meanwhile is not added again.
    """
    with locked():
        conversation = load(conversation_id)
        if exchange.id in {other.id for other in conversation.exchanges}:
            conversation = conversation.with_exchange(exchange)
            save(conversation)
    return conversation


@contextmanager
def locked() -> Iterator[None]:
    """Hold the lock of all conversations: pages and ending answers may write the same one."""
    with storage.FileLock(_folder() / "lock"):
        yield


def _folder() -> Path:
    folder = protocol.folder() / "conversations"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _file(conversation_id: str) -> Path:
    return _folder() / f"{conversation_id}.json"


def _remove_oldest() -> None:
    for path in storage.oldest_first(_folder().glob("*.json"))[:-KEPT]:
        path.unlink(missing_ok=True)
