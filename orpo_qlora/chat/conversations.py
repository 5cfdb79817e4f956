"""Conversations on disk: what was asked, and who answered what. Floor 4; no torch.

`chat/conversations/<id>.json` under the home, one file each and replaced whole, so a page that is
closed, reloaded or killed shows the conversation again. A page's address carries the id.
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
"""Conversations that are kept; the one that was quiet for longest goes first."""

Vote = Literal["", "a", "b", "tie", "bad"]


class Answer(BaseModel):
    """What one column said, and the proof of who it was."""

    model_config = ConfigDict(frozen=True)

    run: str = ""
    """Empty for the base model alone."""
    title: str = "Base model"
    """How the column was called; a run can be removed later."""
    sha256: str = ""
    """Of the adapter's weights as they were loaded; empty with the adapter off."""
    text: str = ""
    is_whole: bool = False
    """Whether it came to its end, or to the longest answer."""
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
    """Why it ended early, in words."""

    @property
    def is_votable(self) -> bool:
        """Whether both answers of a blind question are there and wait for the vote."""
        is_whole = all(answer.is_whole for answer in self.answers)
        return self.is_blind and not self.vote and is_whole

    @property
    def hides_names(self) -> bool:
        """Whether nobody may see yet who answered."""
        return self.is_blind and not self.vote

    @property
    def preferred(self) -> Answer:
        """The answer that a shared conversation goes on from: the better one, else the first."""
        return self.answers[1 if self.vote == "b" else 0]


class Conversation(BaseModel):
    """Everything that was asked and answered on one page."""

    model_config = ConfigDict(frozen=True)

    id: str
    exchanges: tuple[Exchange, ...] = ()

    @property
    def last(self) -> Exchange | None:
        """The newest question."""
        return self.exchanges[-1] if self.exchanges else None

    def before(self, exchange_id: str) -> Conversation:
        """Return what was said before a question, all of it if the question is not here."""
        ids = [exchange.id for exchange in self.exchanges]
        end = ids.index(exchange_id) if exchange_id in ids else len(ids)
        return self.model_copy(update={"exchanges": self.exchanges[:end]})

    def with_exchange(self, exchange: Exchange) -> Conversation:
        """Return it with a question at the end, or in the place of the one of the same name."""
        others = {other.id: other for other in self.exchanges} | {exchange.id: exchange}
        return self.model_copy(update={"exchanges": tuple(others.values())})

    def as_kept(self, kept: Conversation) -> Conversation:
        """Return it with its questions as they are on disk; those that are not there stay."""
        newer = {exchange.id: exchange for exchange in kept.exchanges}
        exchanges = tuple(newer.get(exchange.id, exchange) for exchange in self.exchanges)
        return self.model_copy(update={"exchanges": exchanges})

    def turns_of(self, run: str) -> tuple[Message, ...]:
        """Return what a column knows: its own answers, and the preferred ones where it has none."""
        own = [
            next((answer for answer in exchange.answers if answer.run == run), exchange.preferred)
            for exchange in self.exchanges
        ]
        return self._turns(own)

    def shared_turns(self) -> tuple[Message, ...]:
        """Return what both sides of a blind question know: the preferred answers."""
        return self._turns([exchange.preferred for exchange in self.exchanges])

    def _turns(self, answers: Sequence[Answer]) -> tuple[Message, ...]:
        turns: list[Message] = []
        for exchange, answer in zip(self.exchanges, answers, strict=True):
            # A message that was never answered is not said again: turns alternate.
            if answer.text:
                turns += [Message("user", exchange.message), Message("assistant", answer.text)]
        return tuple(turns)


def new_id() -> str:
    """Return the name of a conversation or question that is not there yet."""
    return uuid.uuid4().hex


def load(conversation_id: str) -> Conversation:
    """Return a conversation as it was kept; an empty one if it is not there.

    Raises:
        InputError: this is no conversation's name, or its file cannot be read.
    """
    if not CONVERSATION_ID.match(conversation_id):
        raise InputError(
            "The conversation in this page's address has no valid name.",
            hint="Press “New conversation”.",
        )
    path = _file(conversation_id)
    try:
        return Conversation.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Conversation(id=conversation_id)
    except ValidationError as exc:
        raise InputError(
            "This conversation cannot be read: its file is damaged, or of another version.",
            hint="Press “New conversation”; the file stays as it is.",
            where=str(path),
        ) from exc


def save(conversation: Conversation) -> None:
    """Keep a conversation.

    Raises:
        DiskFull: what was kept before is still there.
    """
    path = _file(conversation.id)
    is_new = not path.exists()
    storage.write_whole(path, conversation.model_dump_json())
    if is_new:
        _forget_oldest()


def update(conversation_id: str, exchange: Exchange) -> Conversation:
    """Put one question's latest state into its conversation, and return that.

    A question that is not there any more, because it was asked again or edited away, stays away.
    """
    with alone():
        conversation = load(conversation_id)
        if exchange.id in {other.id for other in conversation.exchanges}:
            conversation = conversation.with_exchange(exchange)
            save(conversation)
    return conversation


@contextmanager
def alone() -> Iterator[None]:
    """Hold the conversations alone: two pages, or a page and an ending answer, may write one."""
    with storage.FileLock(_folder() / "lock"):
        yield


def _folder() -> Path:
    folder = protocol.folder() / "conversations"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _file(conversation_id: str) -> Path:
    return _folder() / f"{conversation_id}.json"


def _forget_oldest() -> None:
    kept = sorted(_folder().glob("*.json"), key=lambda path: path.stat().st_mtime)
    for path in kept[:-KEPT]:
        path.unlink(missing_ok=True)
