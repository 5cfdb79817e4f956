"""Answers generated in a background thread, so a page may close. Floor 5; no torch.

A page follows the answer, also after a reload; the answer is saved when it ends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing

from orpo_qlora.chat import client, conversations
from orpo_qlora.chat.client import Answers, Column
from orpo_qlora.chat.conversations import Conversation, Exchange
from orpo_qlora.data.messages import Message
from orpo_qlora.errors import Busy, OrpoQloraError

PAUSE_SECONDS = 0.08
"""Shortest time between two updates of a page, seconds; faster is unreadable."""

ALONE_SECONDS = 10.0
"""How long an answer continues without a page that follows it; a reload takes less."""

_under_way: dict[str, Answering] = {}
"""The question being answered, by conversation id."""
_registry = threading.Lock()


class Answering:
    """One question while it is answered; `exchange` grows until the end."""

    def __init__(self, conversation_id: str, exchange: Exchange, columns: Sequence[Column]) -> None:
        self.conversation_id = conversation_id
        self.exchange = exchange
        self.latest = Answers(("",) * len(columns))
        self.error: OrpoQloraError | None = None
        self._columns = columns
        self._changed = threading.Condition()
        self._version = 0
        self._followers = 0
        self._alone_since = time.monotonic()
        self._end = ""
        """Why the page or its absence ended the answer; empty if it did not."""
        self._is_done = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Send the question to the chat process."""
        self._thread.start()

    def stop(self) -> None:
        """End the answers; the text so far is kept."""
        self._end = "Stopped."
        client.stop(self.exchange.id)

    def join(self, seconds: float) -> None:
        """Wait until the answer is saved, at most so long."""
        self._thread.join(seconds)

    def follow(self) -> Generator[Answers, None, None]:
        """Yield the answers so far, now and after each change, until the question has ended.

        Then `exchange` is what was saved, and `error` the failure, if any.
        """
        with self._changed:
            self._followers += 1
        try:
            yield from self._updates()
        finally:
            with self._changed:
                self._followers -= 1
                self._alone_since = time.monotonic()

    def _updates(self) -> Iterator[Answers]:
        seen = -1
        while True:
            with self._changed:
                while self._version == seen and not self._is_done:
                    self._changed.wait()
                seen, latest, is_done = self._version, self.latest, self._is_done
            yield latest
            if is_done:
                return
            with self._changed:
                self._changed.wait_for(lambda: self._is_done, PAUSE_SECONDS)

    def _run(self) -> None:
        try:
            settings = self.exchange.settings
            updates = client.ask(self._columns, settings, self.exchange.id)
            with closing(updates):
                for answers in updates:
                    self._store(answers)
                    if self._is_abandoned():
                        self._end = "Stopped: no page was open to read it."
                    if self._end:
                        break
        except OrpoQloraError as exc:
            self.error = exc
        finally:
            self._finish()

    def _is_abandoned(self) -> bool:
        with self._changed:
            waited = time.monotonic() - self._alone_since
            return not self._followers and waited > ALONE_SECONDS

    def _store(self, answers: Answers) -> None:
        with self._changed:
            self._version += 1
            self.latest = answers
            self.exchange = grown(self.exchange, answers)
            self._changed.notify_all()

    def _finish(self) -> None:
        is_whole = all(answer.is_whole for answer in self.exchange.answers)
        if not is_whole:
            reason = (self.latest.note if self.latest.is_done else "") or "ended early"
            note = self._end or f"{reason[:1].upper()}{reason[1:]}."
            note = self.error.message if self.error else note
            self.exchange = self.exchange.model_copy(update={"note": note})
        try:
            conversations.update(self.conversation_id, self.exchange)
        except OrpoQloraError as exc:
            self.error = self.error or exc
        finally:
            with _registry:
                _under_way.pop(self.conversation_id, None)
            with self._changed:
                self._is_done = True
                self._changed.notify_all()


def grown(exchange: Exchange, answers: Answers) -> Exchange:
    """Return a question with its answers so far."""
    adapters = answers.adapters or ("",) * len(exchange.answers)
    return exchange.model_copy(
        update={
            "answers": tuple(
                answer.model_copy(
                    update={
                        "text": answers.texts[index],
                        "sha256": adapters[index],
                        "is_whole": index in answers.ended,
                        "is_cut": index in answers.cut,
                    }
                )
                for index, answer in enumerate(exchange.answers)
            )
        }
    )


def begin(conversation: Conversation, exchange: Exchange) -> Answering:
    """Save the next question of a conversation and start its answers.

    Raises:
        Busy: the conversation is being answered.
        DiskFull: the question was not sent.
    """
    with _registry:
        if conversation.id in _under_way:
            raise Busy(
                "This conversation is being answered already.",
                hint="Wait for the answers, or stop them.",
            )
        with conversations.locked():
            # Another thread may have saved an answer or a vote meanwhile.
            conversation = conversation.refreshed(conversations.load(conversation.id))
            conversations.save(conversation.with_exchange(exchange))
        answering = Answering(conversation.id, exchange, columns_of(conversation, exchange))
        answering.start()
        _under_way[conversation.id] = answering
    return answering


def columns_of(conversation: Conversation, exchange: Exchange) -> tuple[Column, ...]:
    """Return each column's messages; both sides of a blind question have the same history."""
    message = Message("user", exchange.message)
    shared = conversation.shared_turns()
    return tuple(
        Column(
            run=answer.run,
            turns=(*(shared if exchange.is_blind else conversation.turns_of(answer.run)), message),
        )
        for answer in exchange.answers
    )


def under_way(conversation_id: str) -> Answering | None:
    """Return the question of a conversation that is being answered, if any."""
    with _registry:
        return _under_way.get(conversation_id)
