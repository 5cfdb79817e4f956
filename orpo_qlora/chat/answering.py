"""A question on its way: asked in a thread, so no page need stay open. Floor 4; no torch.

The page follows; a page that is reloaded follows again, and the answer is kept when it ends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing

from orpo_qlora.chat import client, conversations
from orpo_qlora.chat.client import Answers, Column
from orpo_qlora.chat.conversations import Answer, Conversation, Exchange
from orpo_qlora.chat.pace import RESTING
from orpo_qlora.data.messages import Message
from orpo_qlora.errors import Busy, OrpoQloraError

PAUSE_SECONDS = 0.08
"""Shortest time between two looks at an answer: more would be drawn than anyone can read."""
RESTING_PAUSE_SECONDS = 3.0
"""The same while the answer leaves the processor to a run: drawing it takes from the run too."""

ALONE_SECONDS = 10.0
"""How long an answer goes on that no page follows: a page that is reloaded is back by then."""

_at_work: dict[str, Answering] = {}
"""The question under way of each conversation."""
_registry = threading.Lock()


class Answering:
    """One question while it is answered; `exchange` grows until `is_done`."""

    def __init__(self, conversation_id: str, exchange: Exchange, columns: Sequence[Column]) -> None:
        self.conversation_id = conversation_id
        self.exchange = exchange
        self.latest = Answers(("",) * len(columns))
        self.error: OrpoQloraError | None = None
        self._columns = columns
        self._news = threading.Condition()
        self._heard = 0
        self._followers = 0
        self._alone_since = time.monotonic()
        self._end = ""
        """Why this side ended the answer, in words."""
        self._is_done = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Ask."""
        self._thread.start()

    def stop(self) -> None:
        """End the answers; what was said so far is kept."""
        self._end = "Stopped."
        client.stop(self.exchange.id)

    def join(self, seconds: float) -> None:
        """Wait until the answer is kept, at most so long."""
        self._thread.join(seconds)

    def follow(self) -> Generator[Answers, None, None]:
        """Yield what has been said, now and whenever there is more, until the question is over.

        Then `exchange` is as it was kept, and `error` says what went wrong.
        """
        with self._news:
            self._followers += 1
        try:
            yield from self._heard_by_one()
        finally:
            with self._news:
                self._followers -= 1
                self._alone_since = time.monotonic()

    def _heard_by_one(self) -> Iterator[Answers]:
        heard = -1
        while True:
            with self._news:
                while self._heard == heard and not self._is_done:
                    self._news.wait()
                heard, latest, is_done = self._heard, self.latest, self._is_done
            yield latest
            if is_done:
                return
            pause = RESTING_PAUSE_SECONDS if latest.note == RESTING else PAUSE_SECONDS
            with self._news:
                self._news.wait_for(lambda: self._is_done, pause)

    def _run(self) -> None:
        try:
            settings = self.exchange.settings
            asked = client.ask(self._columns, settings, self.exchange.id)
            with closing(asked):
                for answers in asked:
                    self._note(answers)
                    if self._is_alone():
                        self._end = "Stopped: no page was open to read it."
                    if self._end:
                        break
        except OrpoQloraError as exc:
            self.error = exc
        finally:
            self._finish()

    def _is_alone(self) -> bool:
        with self._news:
            waited = time.monotonic() - self._alone_since
            return not self._followers and waited > ALONE_SECONDS

    def _note(self, answers: Answers) -> None:
        with self._news:
            self._heard += 1
            self.latest = answers
            self.exchange = grown(self.exchange, answers)
            self._news.notify_all()

    def _finish(self) -> None:
        is_whole = all(answer.is_whole for answer in self.exchange.answers)
        if not is_whole:
            said = (self.latest.note if self.latest.is_done else "") or "ended early"
            note = self._end or f"{said[:1].upper()}{said[1:]}."
            note = self.error.message if self.error else note
            self.exchange = self.exchange.model_copy(update={"note": note})
        try:
            conversations.update(self.conversation_id, self.exchange)
        except OrpoQloraError as exc:
            self.error = self.error or exc
        finally:
            with _registry:
                _at_work.pop(self.conversation_id, None)
            with self._news:
                self._is_done = True
                self._news.notify_all()


def grown(exchange: Exchange, answers: Answers) -> Exchange:
    """Return a question with what its columns have said so far."""
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
    """Ask the next question of a conversation, which is kept with it from now on.

    Raises:
        Busy: the conversation has a question under way.
        DiskFull: nothing was asked.
    """
    with _registry:
        if conversation.id in _at_work:
            raise Busy(
                "This conversation is being answered already.",
                hint="Wait for the answers, or stop them.",
            )
        with conversations.alone():
            # What was kept meanwhile stays: an answer that just ended, a vote in another tab.
            conversation = conversation.as_kept(conversations.load(conversation.id))
            conversations.save(conversation.with_exchange(exchange))
        answering = Answering(conversation.id, exchange, columns_of(conversation, exchange))
        answering.start()
        _at_work[conversation.id] = answering
    return answering


def columns_of(conversation: Conversation, exchange: Exchange) -> tuple[Column, ...]:
    """Return what each column is asked; the sides of a blind question know the same."""
    asked = Message("user", exchange.message)
    shared = conversation.shared_turns()
    return tuple(
        Column(
            run=answer.run,
            turns=(*(shared if exchange.is_blind else conversation.turns_of(answer.run)), asked),
        )
        for answer in exchange.answers
    )


def under_way(conversation_id: str) -> Answering | None:
    """Return the question that a conversation is waiting for."""
    with _registry:
        return _at_work.get(conversation_id)


def unanswered(answers: Sequence[Answer]) -> tuple[Answer, ...]:
    """Return the columns of a question without what they said."""
    return tuple(Answer(run=answer.run, title=answer.title) for answer in answers)
