"""The chat process: `python -m orpo_qlora.chat.server`. Floor 5; one per home folder.

Holds one base and adapters of runs, answers on a loopback socket, and exits when idle, on request,
or when a run needs the memory.
"""

from __future__ import annotations

import hmac
import logging
import math
import os
import secrets
import select
import signal
import socketserver
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from types import FrameType

import torch
from pydantic import ValidationError

from orpo_qlora import storage
from orpo_qlora.chat import protocol
from orpo_qlora.chat.models import GIB, LoadedAdapter, LoadedPolicies, OnProgress
from orpo_qlora.chat.protocol import Address, ChatStatus, Reply, Request
from orpo_qlora.chat.relay import relay
from orpo_qlora.errors import Busy, OrpoQloraError, OutOfMemory
from orpo_qlora.jobs import interactive
from orpo_qlora.models.devices import hardware
from orpo_qlora.models.generation.generate import prompt_ids, stream
from orpo_qlora.models.generation.sampling import BASE, Conversation
from orpo_qlora.program import give_way, run_program, without_secrets
from orpo_qlora.runs import store
from orpo_qlora.runs.state import ErrorCard
from orpo_qlora.runs.store import Run

log = logging.getLogger(__name__)

IDLE_VARIABLE = "ORPO_QLORA_CHAT_IDLE_SECONDS"
IDLE_SECONDS = 600.0
WATCH_SECONDS = 1.0
LOCK_SECONDS = 2.0
UNREPORTED_WAIT_SECONDS = 0.3
EXIT_SECONDS = 5.0
RUN_NEEDS_BYTES = 2 * GIB
"""Host memory that must stay free beside a run, else the chat unloads."""
STOPS_REMEMBERED = 64
SHARED = "a training run shares the processor: answers are slow"
NICENESS = 5
"""Of the chat beside a run. Of two busy loops pinned to one core, the one at niceness 5 got 26 % of
the processor time, at 10 it got 12 %, at 19 it got 6 %."""
LOCK_POLL_SECONDS = 0.2
HEARTBEAT_SECONDS = 5.0
"""A waiting question repeats its note after this time, which detects a closed connection."""


class Chat:
    """State of the process: loaded models, the answer in progress, when to exit."""

    def __init__(self, token: str, idle_seconds: float) -> None:
        self.token = token
        self.loaded = LoadedPolicies()
        self.leaving = threading.Event()
        self._idle_seconds = idle_seconds
        self._last_used = time.monotonic()
        self._model_lock = threading.Lock()
        self._is_answering = False
        self._stops = 0
        self._stopped: deque[str] = deque(maxlen=STOPS_REMEMBERED)
        """Ids of questions to stop; a stop may arrive before its question has the model."""
        self._beside = ""
        """Run that was active when the chat last answered, with enough GPU memory for both."""
        self._shares_processor = False
        """Whether a run trains on the processor that answers are computed on."""
        self._why = ""
        """Reason for exiting without a request."""

    def answer(self, request: Request, reply: Callable[[Reply], None], gone: Gone) -> None:
        """Execute a request and send its replies.

        Raises:
            OrpoQloraError: the request failed.
            ConnectionError: the client disconnected.
        """
        if request.kind == "chat":
            self._chat(request, self._with_exit_reason(reply), gone)
            return
        if request.kind == "stop" and request.question:
            self._stopped.append(request.question)
        elif request.kind == "stop":
            self._stops += 1
        elif request.kind == "release":
            self._stops += 1
            self.leaving.set()
        reply(Reply(is_done=True, status=self._status()))

    def _with_exit_reason(self, reply: Callable[[Reply], None]) -> Callable[[Reply], None]:
        def send(message: Reply) -> None:
            if message.is_done and message.note and self._why:
                message = message.model_copy(update={"note": f"{message.note}: {self._why}"})
            reply(message)

        return send

    def _status(self) -> ChatStatus:
        key = self.loaded.key
        return ChatStatus(
            pid=os.getpid(),
            model=key.model if key else "",
            runs=self.loaded.runs,
            device=self.loaded.device,
            is_answering=self._is_answering,
        )

    def _chat(self, request: Request, reply: Callable[[Reply], None], gone: Gone) -> None:
        stops = self._stops

        def should_stop() -> bool:
            is_stopped = self._stops != stops or request.question in self._stopped
            return is_stopped or self.leaving.is_set() or gone()

        def on_progress(note: str) -> None:
            reply(Reply(note=note))

        with self._model_held(on_progress, should_stop):
            if self.leaving.is_set():
                # The client then sends its request to the next process.
                raise ConnectionAbortedError("the process is leaving")
            if should_stop():
                reply(Reply(is_done=True, note="stopped"))
                return
            held = self._prepare(request, on_progress)
            adapters = [held.get(column.run) for column in request.columns]
            shas = tuple(adapter.sha256 if adapter else "" for adapter in adapters)
            note = self._note()
            reading = "; ".join(text for text in ("reading…", note) if text)
            conversations = _conversations(request, held)
            lengths = tuple(self._prompt_tokens(one) for one in conversations)
            reply(Reply(note=reading, adapters=shas, prompt_tokens=lengths))
            steps = stream(
                self.loaded.policy,
                self.loaded.tokenizer,
                conversations,
                request.sampling,
                should_stop,
                self.loaded.prefixes,
            )
            # Closed where the client has gone too: until then the model is not as it was.
            with (
                closing(steps),
                hardware.memory_errors(self._memory_is_used_up),
                self._pausing_jobs(),
            ):
                relay(steps, reply, len(conversations), self._note)

    def _prompt_tokens(self, conversation: Conversation) -> int:
        tokenizer = self.loaded.tokenizer
        return len(prompt_ids(tokenizer, conversation.turns, conversation.chat_template))

    def _pausing_jobs(self) -> AbstractContextManager[None]:
        """Make evaluations and estimates pause while an answer is computed on the processor."""
        return interactive.answering() if self.loaded.device == "cpu" else nullcontext()

    def _note(self) -> str:
        """Return what slows the answer; adapt to a run that began or ended meanwhile."""
        if self.loaded.device != "cpu":
            return ""
        if self._shares_processor == (torch.get_num_threads() > 1):
            self._use_cores()
        if self._shares_processor:
            return SHARED
        job = interactive.running_job()
        return f"{job} pauses until this answer ends" if job else ""

    def _memory_is_used_up(self) -> OutOfMemory:
        self.loaded.unload()
        return OutOfMemory(
            "The memory is used up by this conversation.",
            hint="Clear the conversation, or allow fewer tokens.",
        )

    def _prepare(self, request: Request, on_progress: OnProgress) -> dict[str, LoadedAdapter]:
        """Load what the columns need, and return the adapters by run."""
        needed = [request.base_of, *(column.run for column in request.columns)]
        ids = dict.fromkeys(run for run in needed if run)
        runs = [store.read_run(store.paths_of(run)) for run in ids]
        active = active_run()
        self._beside = active.id if active else ""
        adapters = self.loaded.prepare(runs, active, on_progress)
        self._share_processor_with(active)
        threads = self._use_cores()
        log.info("answering with run %s on %d threads", ", ".join(ids), threads)
        return adapters

    def _share_processor_with(self, active: Run | None) -> None:
        """Run at low priority from the first run that trains on the same processor."""
        self._shares_processor = active is not None and self.loaded.device == "cpu"
        if self._shares_processor:
            give_way(NICENESS)

    def _use_cores(self) -> int:
        """Compute on every core, on one beside a run; return how many."""
        if not self._shares_processor:
            return hardware.use_all_cores()
        torch.set_num_threads(1)
        return 1

    @contextmanager
    def _model_held(
        self, on_progress: OnProgress, should_stop: Callable[[], bool]
    ) -> Iterator[None]:
        """Hold the model exclusively; another page waits unless it disconnects."""
        # The watch thread also takes the lock, briefly; such a wait is not reported.
        has_model = self._model_lock.acquire(timeout=UNREPORTED_WAIT_SECONDS)
        reported_at = -math.inf
        while not has_model and not should_stop():
            if time.monotonic() - reported_at >= HEARTBEAT_SECONDS:
                reported_at = time.monotonic()
                on_progress("waiting for another answer to end…")
            has_model = self._model_lock.acquire(timeout=LOCK_POLL_SECONDS)
        try:
            self._is_answering = has_model or self._is_answering
            yield
        finally:
            self._last_used = time.monotonic()
            if has_model:
                self._is_answering = False
                self._model_lock.release()

    def watch(self) -> None:
        """Block until the process should exit; an answer in progress is then stopped."""
        while not self.leaving.wait(WATCH_SECONDS):
            is_idle = self._model_lock.acquire(blocking=False)
            try:
                # A run does not wait for an answer to end.
                reason = self._run_to_make_way_for() or (self._too_long_idle() if is_idle else "")
                if reason:
                    log.info("leaving: %s", reason)
                    self._why = reason
                    self.leaving.set()
            finally:
                if is_idle:
                    self._model_lock.release()

    def _too_long_idle(self) -> str:
        is_over = time.monotonic() - self._last_used > self._idle_seconds
        return "idle" if is_over else ""

    def _run_to_make_way_for(self) -> str:
        if not self.loaded.key:
            return ""
        active = active_run()
        self._share_processor_with(active)  # also for an answer that began before the run
        if active is None:
            return ""
        if self.loaded.device != "cpu":
            return "" if active.id == self._beside else f"run {active.id} needs the GPU"
        is_short = hardware.free_host_bytes() < RUN_NEEDS_BYTES
        return f"run {active.id} needs the memory" if is_short else ""

    def wait_until_quiet(self, seconds: float) -> None:
        """Wait until the answer in progress has stopped, at most so long."""
        if self._model_lock.acquire(timeout=seconds):
            self._model_lock.release()


def _conversations(request: Request, adapters: Mapping[str, LoadedAdapter]) -> list[Conversation]:
    """Return what each column answers; the base is prompted as the first run."""
    first = next(iter(adapters.values()))
    found = [(column.turns, adapters.get(column.run)) for column in request.columns]
    return [
        Conversation(turns, adapter.name if adapter else BASE, (adapter or first).chat_template)
        for turns, adapter in found
    ]


Gone = Callable[[], bool]


def active_run() -> Run | None:
    """Return the active run; a run folder that is being removed counts as none."""
    try:
        return store.active_run()
    except OrpoQloraError as exc:
        log.info("the runs cannot be read now: %s", exc)
        return None


class _Connection(socketserver.StreamRequestHandler):
    """One connection: one request and its replies."""

    server: _Listener
    timeout = 30

    def handle(self) -> None:
        """Answer one request; without the right token the connection is closed silently."""
        try:
            line = self.rfile.readline(protocol.MAX_LINE_BYTES)
            request = Request.model_validate_json(line)
        except (OSError, ValidationError):
            return
        except OrpoQloraError as exc:
            self._send_last(Reply(is_done=True, error=ErrorCard.of(exc)))
            return
        if not hmac.compare_digest(request.token, self.server.chat.token):
            return
        error = self._answer(request)
        if error is not None:
            self._send_last(Reply(is_done=True, error=ErrorCard.of(error)))

    def _answer(self, request: Request) -> OrpoQloraError | None:
        try:
            self.server.chat.answer(request, self._send, self._is_gone)
        except OrpoQloraError as exc:
            log.error("%s", exc)
            return exc
        except ConnectionError as exc:
            log.info("the connection ended: %s", exc)
        except Exception as exc:  # noqa: BLE001 - one of the four catch-alls: a request's fault must not end the process
            log.error("%s", traceback.format_exc())
            return OrpoQloraError(
                f"Internal error: {type(exc).__name__}: {without_secrets(str(exc))[:300]}",
                hint=f"The details are in {protocol.log_file()}; please report them.",
            )
        return None

    def _send(self, reply: Reply) -> None:
        try:
            self.wfile.write(protocol.to_line(reply))
        except OSError as exc:
            raise ConnectionAbortedError(f"a reply could not be sent: {exc}") from exc

    def _send_last(self, reply: Reply) -> None:
        try:
            self._send(reply)
        except ConnectionError as exc:
            log.info("the client went away: %s", exc)

    def _is_gone(self) -> bool:
        # A client sends nothing after its request: readable means closed.
        return bool(select.select([self.connection], [], [], 0)[0])


class _Listener(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        super().__init__((protocol.HOST, 0), _Connection)


def serve() -> None:
    """Listen until the process should exit.

    Raises:
        Busy: another chat process serves this home folder.
    """
    os.umask(0o077)
    lock = storage.FileLock(protocol.lock_file())
    if not lock.acquire(LOCK_SECONDS):
        raise Busy(
            "Another chat process is already running.",
            hint="Chat on the page, or release it there first.",
        )
    chat = Chat(secrets.token_urlsafe(32), float(os.environ.get(IDLE_VARIABLE, IDLE_SECONDS)))

    def on_signal(number: int, frame: FrameType | None) -> None:
        chat.leaving.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    with _Listener(chat) as listener:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        port = int(listener.server_address[1])
        protocol.write_address(Address(pid=os.getpid(), port=port, token=chat.token))
        log.info("listening on port %d", port)
        try:
            chat.watch()
        finally:
            protocol.address_file().unlink(missing_ok=True)
            listener.shutdown()
            chat.wait_until_quiet(EXIT_SECONDS)
            lock.release()


def main() -> int:
    """Run the chat process to its exit code."""
    return run_program(serve, on_error=lambda error: None)


if __name__ == "__main__":
    exit_code = main()
    logging.shutdown()
    # The interpreter would free torch and the models object by object, which takes seconds.
    os._exit(exit_code)
