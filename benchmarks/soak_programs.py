"""The programs that `benchmarks.soak` ends again and again: a page with a visitor, and a chat."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import httpx
import psutil
from visitor import Visitor

from benchmarks.soak_checks import hold, programs, wait_until
from orpo_qlora.chat import client
from orpo_qlora.chat.client import ChatSettings
from orpo_qlora.data.messages import Message
from orpo_qlora.errors import WorkerLost
from orpo_qlora.runs import store
from orpo_qlora.runs.store import RunPaths

ROOT = Path(__file__).parents[1]
ASK = (Message("user", "What is gravity?"),)
TALKATIVE = ChatSettings(temperature=0, max_tokens=150)
GLANCE_SECONDS = 0.7
END_SECONDS = 120.0


class Background(ABC):
    """A thread that does something until stopped, and keeps the error."""

    def __init__(self) -> None:
        self.problem = ""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stopping.is_set() and not self.problem:
            try:
                self.act()
            except Exception as exc:  # noqa: BLE001 - reported by `is_well` in the main thread
                self.problem = f"{type(exc).__name__}: {exc}"

    @abstractmethod
    def act(self) -> None:
        """Do it once more."""

    def is_well(self) -> None:
        hold(f"{type(self).__name__} meets no error", not self.problem, self.problem)

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(END_SECONDS)
        hold(f"{type(self).__name__} ends", not self._thread.is_alive())

    def __enter__(self) -> Background:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()


class PageUnderFire(Background):
    """`python app.py` on one port, opened again whenever it is gone, and a tab that watches."""

    def __init__(self, home: Path, temporary: Path) -> None:
        super().__init__()
        self.home, self.temporary = home, temporary
        self.asked = self.truths = self.opened = 0
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        self.address = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._log = (home.parent / "page.log").open("ab")
        self._visitor: Visitor | None = None
        self._hand: Visitor | None = None

    def keep_open(self) -> None:
        """Open the page if it is not open, without waiting for it."""
        if self._process is None or self._process.poll() is not None:
            self.opened += 1
            self._process = subprocess.Popen(
                [sys.executable, str(ROOT / "app.py"), "--port", str(self._port)],
                stdout=self._log,
                stderr=subprocess.STDOUT,
            )

    def victims(self) -> list[psutil.Process]:
        if self._process is None or self._process.poll() is not None:
            return []
        return [psutil.Process(self._process.pid)]

    def act(self) -> None:
        """Watch the run at work as an open tab does, only more often."""
        time.sleep(GLANCE_SECONDS)
        try:
            if self._visitor is None:
                self._visitor = Visitor(self.address)
            active = store.active_run()
            if active is not None:
                self._visitor.put("run-picker", active.id)
            self._visitor.tick()
        except httpx.TransportError:
            return  # it has been killed, or is not up again yet
        self.asked += 1
        card = str(self._visitor.value("runs-error") or "")
        hold("no internal error on the page", "Internal error" not in card, card)

    def resume(self, paths: RunPaths) -> bool:
        """Press Resume; tell whether the run goes on."""
        try:
            self._hand = self._hand or Visitor(self.address)
            self._hand.put("run-picker", paths.id)
            self._hand.fire("run-resume", "click")
        except httpx.TransportError:
            return False
        card = str(self._hand.value("runs-error") or "")
        hold("no internal error on the page", "Internal error" not in card, card)
        return not store.read_run(paths).is_resumable

    def tells_the_truth(self, paths: RunPaths) -> None:
        """Hold that the page says of a run at rest what its folder says."""
        try:
            self._hand = self._hand or Visitor(self.address)
            self._hand.put("run-picker", paths.id)
            self._hand.fire("run-picker", "change")
        except httpx.TransportError:
            return
        status = store.read_run(paths).state.status
        shown = str(self._hand.value("run-status"))
        hold("the page tells the truth", f">{status}<" in shown, status, shown[:300])
        self.truths += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        if error is None:
            self.stop()
            self.keep_open()
            wait_until(self._is_up, END_SECONDS, "the page opens")
        if self._process is not None:
            self._process.terminate()
            self._process.wait(END_SECONDS)
        self._log.close()

    def _is_up(self) -> bool:
        try:
            return httpx.get(f"{self.address}/config", trust_env=False).is_success
        except httpx.TransportError:
            return False


class Talker(Background):
    """Asks the chat again and again; now and then hangs up in mid-answer."""

    def __init__(self, paths: RunPaths, seed: int) -> None:
        super().__init__()
        self.answers = self.stopped = self.lost = self.hung_up = 0
        self._run_to_ask = store.read_run(paths)
        self._dice = random.Random(seed)

    def act(self) -> None:
        time.sleep(GLANCE_SECONDS)
        most = self._dice.choice([0, 0, 20])
        answer = client.stream(self._run_to_ask, ASK, ASK, TALKATIVE)
        try:
            for count, update in enumerate(answer, start=1):
                if update.is_done and update.note.startswith("stopped"):
                    self.stopped += 1  # SIGTERM asks for that
                elif update.is_done:
                    hold("a whole answer has words", bool(update.base and update.tuned), update)
                    self.answers += 1
                if count == most:
                    self.hung_up += 1
                    break
        except WorkerLost:
            self.lost += 1
        finally:
            answer.close()


def end_everything(home: Path) -> None:
    """Leave nothing behind; a program that is ended may have started another just before."""
    while found := programs(home):
        for process in found:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(0.1)
