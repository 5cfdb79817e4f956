"""What a step changes on the page of a run, told to every tab from one drawing. Floor 5.

A tab that watches asks every two seconds. Through Gradio each such request costs ten times the
processor time, nearly all of it for components that stay as they are, and each tab would be drawn
for anew; beside a run that trains on the processor that time is taken from the run.
"""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping

import anyio.to_thread
from starlette.datastructures import Headers, QueryParams
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from orpo_qlora.charts.view import Choices
from orpo_qlora.errors import OrpoQloraError
from orpo_qlora.ui.runs import live_view, snapshot
from orpo_qlora.ui.runs import tab as runs_tab
from orpo_qlora.ui.runs.snapshot import FED, Snapshot

PATH = "/watch"
REUSE_SECONDS, MOST_REUSE_SECONDS = 1.8, 7.8
"""How old a look may be that tabs share: when it is cheap, and when it costs more than its share.
Below one and four of the timer's intervals, so that no tab waits for another interval."""
SHARE = 0.01
"""Of one core, over time, for looking at a run: it may train on that core, and is as slow as its
slowest thread."""
ANSWER_SECONDS = 0.002
"""What an answer costs beside the drawing: a request taken in, a text sent."""
AGAIN = "x-again-in"
"""Header: seconds until there can be anything new. A tab that knows does not ask before."""
MOST_LOOKS, KEPT_SECONDS = 16, 60.0
CHOICES = 4
SQUEEZING = 1
"""Of 9: five times smaller in a fifth of the time."""
HEADERS = {"cache-control": "no-store", "vary": "accept-encoding"}
TURN = json.dumps({"turn": True}).encode()
"""Tells the tab to ask Gradio: something changed that is more than a text, or the watch is over."""


class Look:
    """A run as it was at one moment, and what was drawn of it so far."""

    def __init__(
        self, now: Snapshot, choices: Choices, began_at: float, before: Look | None
    ) -> None:
        self.began_at = began_at
        self.cost_seconds = 0.0
        """Computing that went into it so far."""
        self._foreseen_seconds = before.cost_seconds if before else 0.0
        """As much as the last look took: who asks first is told when to come back, like all."""
        self.run = now.run
        self.prints = snapshot.short_prints(now, choices)
        self._now, self._choices = now, choices
        self._drawn = before.drawn_alike(self.prints) if before else {}
        self._bodies: dict[frozenset[str], bytes] = {}
        self._drawing = threading.Lock()

    def fresh_seconds(self) -> float:
        """Return for how long it may still stand for the run as it is."""
        cost = max(self.cost_seconds, self._foreseen_seconds)
        longest = max(REUSE_SECONDS, min(MOST_REUSE_SECONDS, cost / SHARE))
        return self.began_at + longest - time.monotonic()

    def drawn_alike(self, prints: Mapping[str, str]) -> dict[str, dict[str, str]]:
        """Return the parts that would be drawn the same again."""
        drawn = dict(self._drawn)
        return {name: texts for name, texts in drawn.items() if self.prints[name] == prints[name]}

    def changed(self, seen: object) -> frozenset[str]:
        """Return the parts that differ from what a tab shows."""
        shown = seen if isinstance(seen, dict) else {}
        return frozenset(name for name, print_ in self.prints.items() if shown.get(name) != print_)

    def body_at_hand(self, changed: frozenset[str]) -> bytes | None:
        """Return these parts if somebody asked for them before: then nobody need wait for them."""
        return self._bodies.get(changed) if changed else b""

    def body(self, changed: frozenset[str]) -> bytes:
        """Return these parts, squeezed: drawn and squeezed once for all who ask."""
        with self._drawing:
            if changed not in self._bodies:
                began_at = time.thread_time()
                parts = {place: text for name in changed for place, text in self._of(name).items()}
                told = {"seen": json.dumps(self.prints), "parts": parts}
                whole = json.dumps(told, ensure_ascii=False).encode()
                self._bodies[changed] = gzip.compress(whole, SQUEEZING)
                self.cost_seconds += time.thread_time() - began_at
            return self._bodies[changed]

    def _of(self, name: str) -> dict[str, str]:
        if name not in self._drawn:
            self._drawn[name] = self._draw(name)
        return self._drawn[name]

    def _draw(self, name: str) -> dict[str, str]:
        if name == "status":
            return {runs_tab.STATUS: runs_tab.status_card(self._now)}
        if name == "log":
            return {runs_tab.LOG: self._now.log}
        return live_view.draw(self._now, self._choices.chart)


class _Place:
    """Where the latest look at a run waits for tabs that see it the same way."""

    def __init__(self) -> None:
        self.look: Look | None = None
        self.looking = threading.Lock()


class LiveFeed:
    """Answers `GET /watch`; every other request is passed on."""

    def __init__(self, app: ASGIApp, is_busy: Callable[[], bool]) -> None:
        self.app = app
        self._is_busy = is_busy
        self._places: OrderedDict[tuple[str, Choices], _Place] = OrderedDict()
        self._choosing = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with what is new for a tab: 204 for nothing."""
        if scope["type"] != "http" or scope["path"] != PATH:
            await self.app(scope, receive, send)
            return
        asked = QueryParams(scope["query_string"])
        told = self._at_hand(asked)
        if told is None:
            told = await anyio.to_thread.run_sync(self.news, asked)
        news, fresh_seconds = told
        takes = Headers(scope=scope).get("accept-encoding", "")
        response = _response(news, "gzip" in takes)
        response.headers[AGAIN] = f"{max(0.0, fresh_seconds):.1f}"
        await response(scope, receive, send)

    def news(self, asked: Mapping[str, str]) -> tuple[bytes | None, float]:
        """Return what is new and how many seconds that stays so.

        What is new is squeezed; empty for nothing, None when the tab must ask Gradio.

        Args:
            asked: `run`, `seen` as `snapshot.seen_token` made it, and the person's `choices`.
        """
        try:
            look = self._look(*_asked_for(asked))
            is_over = not look.run.is_at_work and not self._is_awaited(look.run.id)
        except OrpoQloraError:
            return None, 0.0  # Gradio's handler meets the same error and shows it
        changed = look.changed(_parsed(asked.get("seen", "")))
        if is_over or changed - FED:
            return None, 0.0
        look.cost_seconds += ANSWER_SECONDS
        return look.body(changed) if changed else b"", look.fresh_seconds()

    def _at_hand(self, asked: Mapping[str, str]) -> tuple[bytes | None, float] | None:
        """Return what `news` would where all of it is known, without a thread of its own.

        Twenty tabs ask for the same: handing each question to a thread and back costs more than
        answering it, and wakes two threads on cores that a run may be using.
        """
        place = self._places.get(_asked_for(asked))
        look = place.look if place else None
        if look is None or look.fresh_seconds() < 0 or not look.run.is_at_work:
            return None
        changed = look.changed(_parsed(asked.get("seen", "")))
        body = look.body_at_hand(changed)
        if body is None:
            return None
        look.cost_seconds += ANSWER_SECONDS
        return body, look.fresh_seconds()

    def _look(self, run_id: str, choices: Choices) -> Look:
        """Return the run as it is, or was a moment ago."""
        with self._choosing:
            place = self._places.setdefault((run_id, choices), _Place())
            self._places.move_to_end((run_id, choices))
            self._forget()
        with place.looking:
            if place.look is None or place.look.fresh_seconds() < 0:
                place.look = _look_at(run_id, choices, place.look)
            return place.look

    def _forget(self) -> None:
        """Let go of looks nobody has asked for lately: each holds all points of its run."""
        while len(self._places) > 1:
            look = next(iter(self._places.values())).look
            is_old = look is not None and time.monotonic() - look.began_at > KEPT_SECONDS
            if not is_old and len(self._places) <= MOST_LOOKS:
                return
            self._places.popitem(last=False)

    def _is_awaited(self, run_id: str) -> bool:
        return self._is_busy() or runs_tab.awaits_more(run_id)


def _asked_for(asked: Mapping[str, str]) -> tuple[str, Choices]:
    """Return the run, and how the tab wants to see it."""
    chosen = _parsed(asked.get("choices", ""))
    return asked.get("run", ""), Choices.of(chosen[:CHOICES] if isinstance(chosen, list) else ())


def _look_at(run_id: str, choices: Choices, before: Look | None) -> Look:
    now, computed = time.monotonic(), time.thread_time()
    look = Look(snapshot.take_snapshot(run_id), choices, now, before)
    look.cost_seconds = time.thread_time() - computed
    return look


def _parsed(text: str) -> object:
    """Return what a JSON text says, None for one that says nothing."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _response(news: bytes | None, is_squeezed: bool) -> Response:
    if news is None:
        return Response(TURN, headers=HEADERS, media_type="application/json")
    if not news:
        return Response(status_code=204, headers=HEADERS)
    if not is_squeezed:
        return Response(gzip.decompress(news), headers=HEADERS, media_type="application/json")
    squeezed = {**HEADERS, "content-encoding": "gzip"}
    return Response(news, headers=squeezed, media_type="application/json")
