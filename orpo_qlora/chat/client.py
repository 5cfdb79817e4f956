"""Client of the chat process, for page and terminal. Floor 5; no torch."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass, replace

from orpo_qlora import storage
from orpo_qlora.chat import protocol
from orpo_qlora.chat.protocol import ChatStatus, Column, Reply, Request
from orpo_qlora.data.messages import Message
from orpo_qlora.errors import WorkerLost
from orpo_qlora.models.generation.sampling import Sampling
from orpo_qlora.program import start_program
from orpo_qlora.runs.store import Run

__all__ = [
    "Answers",
    "ChatSettings",
    "ChatStatus",
    "ChatUpdate",
    "Column",
    "ask",
    "cut_note",
    "release",
    "status",
    "stop",
    "stream",
]

SERVER = "orpo_qlora.chat.server"
START_SECONDS = 120.0
"""How long a chat process may take to listen; importing torch on a cold disk is most of it."""
SILENCE_SECONDS = 900.0
"""Longest silence before a timeout: loading a large base from a slow disk sends nothing."""
EXIT_SECONDS = 20.0
POLL_SECONDS = 0.05
LOG_BYTES = 1_000_000

_children: list[subprocess.Popen[bytes]] = []
"""Chat processes started here; a dead one stays a zombie until `_reap` polls it."""


@dataclass(frozen=True)
class ChatSettings:
    """System prompt and sampling of an answer; see `Sampling` for the bounds."""

    system: str = ""
    temperature: float = 0.7
    top_p: float = 0.95
    max_tokens: int = 256
    seed: int = 0

    @property
    def system_turns(self) -> tuple[Message, ...]:
        """The system prompt as a turn, none where it is blank."""
        return (Message("system", self.system),) if self.system.strip() else ()

    @property
    def sampling(self) -> Sampling:
        """The part that decides how tokens are drawn."""
        return Sampling(self.temperature, self.top_p, self.max_tokens, self.seed)


@dataclass(frozen=True)
class Answers:
    """Text of every column so far, in the order of the request."""

    texts: tuple[str, ...]
    adapters: tuple[str, ...] = ()
    """SHA-256 of each column's adapter, empty where it is off; set once it is loaded."""
    ended: frozenset[int] = frozenset()
    """Columns whose answer has ended."""
    cut: frozenset[int] = frozenset()
    """Those of them that ended at the longest answer."""
    note: str = ""
    """What happens or slows the answer: loading, waiting, stopped."""
    is_done: bool = False
    tokens_per_second: float = 0.0
    """In each column."""
    prompt_tokens: tuple[int, ...] = ()
    """Of each column's conversation; set before its answer begins."""
    tokens: tuple[int, ...] = ()
    """Of each column's answer with its end token; set at the end."""


@dataclass(frozen=True)
class ChatUpdate:
    """Both answers so far."""

    base: str = ""
    tuned: str = ""
    note: str = ""
    """What happens or slows the answers: loading, waiting, cut at the longest answer."""
    is_done: bool = False
    tokens_per_second: float = 0.0
    """In each column."""


def ask(
    columns: Sequence[Column], settings: ChatSettings, question: str = "", base_of: str = ""
) -> Generator[Answers, None, None]:
    """Answer the last message of every column at the same time, with the same random numbers.

    Starts the chat process if there is none. Closing the iterator ends the generation. The last
    item has `is_done`, also after `stop`.

    Args:
        columns: models and their messages, at least one of them a run; all runs have one base.
        settings: sampling, and the system prompt put before every column's turns.
        question: an id for `stop`.
        base_of: a run whose base answers, where no column is a run.

    Raises:
        InputError: a setting is out of its bounds, or the runs have no base in common.
        ModelError: the base or an adapter cannot be used.
        ResourceError: not enough memory now; the message says why.
        WorkerLost: the chat process died; the hint has the last lines of its log.
    """
    with_system = tuple(
        Column(run=column.run, turns=(*settings.system_turns, *column.turns)) for column in columns
    )
    request = Request(
        token="",
        kind="chat",
        question=question,
        columns=with_system,
        base_of=base_of,
        sampling=settings.sampling,
    )
    answers = Answers(("",) * len(columns))
    for is_last_try in (False, True):
        if not storage.is_locked(protocol.lock_file()):
            yield replace(answers, note="starting the chat process…")
        try:
            for reply in _ask(request):
                answers = _grown(answers, reply)
                yield answers
                if answers.is_done:
                    return
        except (OSError, EOFError) as exc:
            # A process that was killed or exited between two messages is started again.
            if is_last_try or any(answers.texts):
                raise _lost("The chat process ended in the middle of an answer.") from exc


def _grown(answers: Answers, reply: Reply) -> Answers:
    if reply.error is not None:
        raise reply.error.to_error()
    more = reply.texts or ("",) * len(answers.texts)
    return Answers(
        texts=tuple(text + new for text, new in zip(answers.texts, more, strict=True)),
        adapters=reply.adapters or answers.adapters,
        ended=answers.ended.union(reply.ended),
        cut=answers.cut.union(reply.cut),
        note=reply.note,
        is_done=reply.is_done,
        tokens_per_second=reply.tokens_per_second,
        prompt_tokens=reply.prompt_tokens or answers.prompt_tokens,
        tokens=reply.tokens,
    )


def cut_note(names: Sequence[str], cut: Collection[int], settings: ChatSettings) -> str:
    """Return a sentence on the columns cut at the longest answer; empty for none."""
    if not cut:
        return ""
    columns = " and ".join(names[index] for index in sorted(cut))
    return f"{columns} cut at {settings.max_tokens} tokens; allow more to read on"


def stream(
    run: Run,
    base_history: Sequence[Message],
    tuned_history: Sequence[Message],
    settings: ChatSettings,
) -> Iterator[ChatUpdate]:
    """Answer the last message of both histories with base and tuned; see `ask`."""
    columns = (Column(turns=tuple(base_history)), Column(run=run.id, turns=tuple(tuned_history)))
    for answers in ask(columns, settings):
        cut = cut_note(("base", "tuned"), answers.cut, settings) if answers.is_done else ""
        base, tuned = answers.texts
        yield ChatUpdate(
            base=base,
            tuned=tuned,
            note=cut or answers.note,
            is_done=answers.is_done,
            tokens_per_second=answers.tokens_per_second,
        )


def stop(question: str = "") -> None:
    """End the answers to a question, or all answers; nothing happens when there are none."""
    _ask_running("stop", question)


def status() -> ChatStatus | None:
    """Return what the chat process holds, or None without one."""
    reply = _ask_running("status")
    return reply.status if reply else None


def release() -> None:
    """Make the chat process exit, and wait for that.

    Raises:
        WorkerLost: it did not exit in time.
    """
    if _ask_running("release") is None:
        return
    deadline = time.monotonic() + EXIT_SECONDS
    while storage.is_locked(protocol.lock_file()):
        if time.monotonic() > deadline:
            raise _lost("The chat process does not exit.")
        time.sleep(POLL_SECONDS)
    _reap(EXIT_SECONDS)


def _ask_running(kind: str, question: str = "") -> Reply | None:
    """Send a request to the running process; None without one."""
    connection = _reach()
    if connection is None:
        return None
    try:
        request = {"token": "", "kind": kind, "question": question}
        return next(_replies(connection, Request.model_validate(request)))
    except (OSError, EOFError):
        return None


def _ask(request: Request) -> Iterator[Reply]:
    yield from _replies(_connect(), request)


def _replies(connection: tuple[socket.socket, str], request: Request) -> Iterator[Reply]:
    """Yield the answers to a request; the connection is closed with the iterator.

    Raises:
        EOFError: the connection closed before the last reply.
    """
    wire, token = connection
    with wire, wire.makefile("rb") as lines:
        wire.settimeout(SILENCE_SECONDS)
        wire.sendall(protocol.to_line(request.model_copy(update={"token": token})))
        for line in lines:
            reply = Reply.model_validate_json(line)
            yield reply
            if reply.is_done:
                return
    raise EOFError("the chat process closed the connection")


def _reach() -> tuple[socket.socket, str] | None:
    """Return a connection to the running process and its token, or None."""
    address = protocol.read_address()
    if address is None or not storage.is_locked(protocol.lock_file()):
        return None
    try:
        wire = socket.create_connection((protocol.HOST, address.port), timeout=5)
    except OSError:
        return None
    return wire, address.token


def _connect() -> tuple[socket.socket, str]:
    """Return a connection and its token, starting the process if there is none.

    Raises:
        WorkerLost: it died twice or did not listen in time.
    """
    deadline = time.monotonic() + START_SECONDS
    child: subprocess.Popen[bytes] | None = None
    starts = 0
    while time.monotonic() < deadline:
        connection = _reach()
        if connection is not None:
            return connection
        # A held lock without a connection is a process that is starting or exiting.
        is_absent = child is None or child.poll() is not None
        if is_absent and not storage.is_locked(protocol.lock_file()):
            if starts == 2:
                raise _lost("The chat process does not start.")
            child = _start()
            starts += 1
        time.sleep(POLL_SECONDS)
    raise _lost(f"The chat process did not listen within {START_SECONDS:.0f} s.")


def _start() -> subprocess.Popen[bytes]:
    _reap(0)
    log = protocol.log_file()
    if log.exists() and log.stat().st_size > LOG_BYTES:
        log.replace(log.with_name("log.old.txt"))
    child = start_program(SERVER, [], log, works_in=storage.home())
    _children.append(child)
    return child


def _reap(timeout_seconds: float) -> None:
    """Remove exited children, waiting for running ones at most so long."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        _children[:] = [child for child in _children if child.poll() is None]
        if not _children or time.monotonic() >= deadline:
            return
        time.sleep(POLL_SECONDS)


def _lost(message: str) -> WorkerLost:
    log = protocol.log_file()
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    last = "\n".join(text.splitlines()[-8:]) or "its log is empty"
    return WorkerLost(
        message, hint=f"Send the message again. The end of {log}:\n{last}", where=str(log)
    )
