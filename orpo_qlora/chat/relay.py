"""The steps of a generation as replies on the wire. Floor 4; chat process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from orpo_qlora.chat.models import Say
from orpo_qlora.chat.protocol import Reply
from orpo_qlora.models.generation import Delta


def relay(
    steps: Iterator[tuple[Delta, ...]],
    reply: Callable[[Reply], None],
    columns: int,
    rest: Callable[[Say], str],
) -> None:
    """Send each step as one line, and the last word when every column has ended.

    Between steps it rests as long as it must; what there is to say of it goes with the next step.
    """
    started, speed = 0.0, 0.0

    def say(note: str) -> None:
        reply(Reply(note=note, tokens_per_second=speed))

    working = columns
    note = rest(say)
    for count, deltas in enumerate(steps):
        now = time.monotonic()
        # The first step reads the prompt; what people see as speed begins after it.
        started = started or now
        speed = count / (now - started) if now > started else 0.0
        texts = {delta.row: delta.text for delta in deltas}
        ended = tuple(delta.row for delta in deltas if delta.is_done)
        working -= len(ended)
        reply(
            Reply(
                texts=tuple(texts.get(row, "") for row in range(columns)),
                ended=ended,
                cut=tuple(delta.row for delta in deltas if delta.is_cut),
                tokens_per_second=speed,
                note=note,
            )
        )
        if working:
            note = rest(say)
    reply(Reply(is_done=True, note="stopped" if working else "", tokens_per_second=speed))
