"""Twenty people watch a run, upload and chat, over the requests that the page's script would send.

Tabs leave what comes packed: browsers that unpack it are on other machines.
"""

from __future__ import annotations

import http.client
import json
import math
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from visitor import Visitor

from orpo_qlora.chat import client

TABS, CHATTERS = 20, 2
TICK_SECONDS = 2.0
UPLOAD_EVERY_SECONDS = 30.0
WORDS = ("time", "year", "people", "way", "day", "thing", "life", "child", "world", "school")
BEGINNING = 4096
"""Unpacked bytes in which an answer says what it shows."""
GZIP = 31


class Presence:
    """Whether the audience is there; its time stands still while it is not."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_there = self._is_over = False

    def change(self, *, is_there: bool) -> None:
        """Let everybody come or go."""
        with self._changed:
            self._is_there = is_there
            self._changed.notify_all()

    def end(self) -> None:
        """Let nobody stay any longer."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def stay(self, seconds: float) -> bool:
        """Wait until the audience was there for so long; tell whether it still is."""
        with self._changed:
            while not self._is_over:
                if not self._is_there:
                    self._changed.wait()
                    continue
                if seconds <= 0:
                    return True
                began_at = time.monotonic()
                self._changed.wait(seconds)
                seconds -= time.monotonic() - began_at
        return False


class RunCallback(Visitor):
    """A tab that unpacks no more than it needs to ask the next question."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self._line = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)

    def close(self) -> None:
        super().close()
        self._line.close()

    def news(self, query: dict) -> tuple[dict, float, int]:
        """Return what was told without its texts; the bytes are those that came over the line."""
        answer = self._ask(f"/watch?{urlencode(query)}")
        packed, again_seconds = answer.read(), float(answer.headers["x-again-in"])
        if not packed:
            return {}, again_seconds, 0
        if answer.headers["content-encoding"] != "gzip":
            return json.loads(packed), again_seconds, len(packed)
        beginning = zlib.decompressobj(GZIP).decompress(packed, BEGINNING).decode(errors="ignore")
        seen, _ = json.JSONDecoder().raw_decode(beginning, len('{"seen": '))
        return {"seen": seen, "parts": {}}, again_seconds, len(packed)

    def _ask(self, path: str) -> http.client.HTTPResponse:
        try:
            return self._ask_once(path)
        except ConnectionError:  # the page ends what was silent for long; a browser asks again
            self._line.close()
            return self._ask_once(path)

    def _ask_once(self, path: str) -> http.client.HTTPResponse:
        self._line.request("GET", path, headers={"accept-encoding": "gzip"})
        return self._line.getresponse()


@dataclass
class Crowd:
    """Everybody who has the page open, and what they met."""

    address: str
    run: str
    chat_run: str
    csv: Path
    seconds: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    bytes: list[int] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    presence: Presence = field(default_factory=Presence)
    may_chat: threading.Event = field(default_factory=threading.Event)
    is_over: threading.Event = field(default_factory=threading.Event)

    def tab(self, number: int) -> None:
        """Open the page, watch the run, now and then upload; one thread."""
        visitor = RunCallback(self.address)
        visitor.load()
        visitor.put("run-picker", self.run)
        visitor.fire("run-picker", "change")
        # People do not come at once.
        wait = TICK_SECONDS * number / TABS
        stayed, next_upload = 0.0, UPLOAD_EVERY_SECONDS * number / TABS
        while self.presence.stay(wait):
            self._timed("tick", lambda: self.bytes.append(visitor.tick()))
            self._look(visitor, "runs-error")
            stayed += wait
            if number % 5 == 0 and stayed >= next_upload:
                next_upload += UPLOAD_EVERY_SECONDS
                self._timed("upload", lambda: self._upload(visitor, number))
            # The page's timer goes on, and asks at the first beat that can tell anything new.
            beats = math.ceil((visitor.due_at - time.monotonic()) / TICK_SECONDS)
            wait = TICK_SECONDS * max(1, beats)
        visitor.close()

    def _upload(self, visitor: Visitor, number: int) -> None:
        visitor.upload(self.csv, "data-upload")
        visitor.stream("data-upload", "upload")
        self._look(visitor, "data-error")
        if not visitor.value("data-id"):
            self.errors.append(f"tab {number}: the upload was not taken")

    def chatter(self, number: int) -> None:
        """Ask both models again and again while it may; one thread."""
        visitor = Visitor(self.address)
        visitor.load()
        visitor.put("chat-run", ["base", self.chat_run])
        visitor.put("chat-max-tokens", 64)
        while not self.is_over.is_set():
            if not self.may_chat.wait(0.2):
                continue
            visitor.put("chat-message", f"Tell me about the {WORDS[number]}.")
            self._timed("chat", lambda: visitor.stream("chat-send", "click"))
            self._look(visitor, "chat-error")
        visitor.close()

    def _timed(self, what: str, act: Callable[[], object]) -> None:
        start = time.monotonic()
        act()
        self.seconds[what].append(time.monotonic() - start)

    def _look(self, visitor: Visitor, card: str) -> None:
        text = str(visitor.value(card) or "")
        if text:
            self.errors.append(f"{card}: {text}")

    def _noting(self, act: Callable[[int], None], number: int) -> None:
        try:
            act(number)
        except Exception as exc:  # noqa: BLE001 - every error counts, none may end the others
            self.errors.append(f"{act.__name__} {number}: {type(exc).__name__}: {exc}")

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Let everybody open the page; they wait until told."""
        members = [(self.tab, number) for number in range(TABS)]
        members += [(self.chatter, number) for number in range(CHATTERS)]
        threads = [threading.Thread(target=self._noting, args=member) for member in members]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.is_over.set()
            self.presence.end()
            client.stop()
            for thread in threads:
                thread.join()
