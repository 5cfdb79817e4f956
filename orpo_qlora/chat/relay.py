"""Sends the steps of a generation as replies on the wire. Floor 5; chat process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from orpo_qlora.chat.protocol import Reply
from orpo_qlora.models.generation.generate import Delta


def relay(
    steps: Iterator[tuple[Delta, ...]],
    reply: Callable[[Reply], None],
    columns: int,
    note: Callable[[], str],
) -> None:
    """Send each step as one reply, and a last one with `is_done`.

    Args:
        steps: new text of the rows still being answered.
        reply: sends one line to the client.
        columns: rows of the batch.
        note: returns what slows the answer at this step, empty for nothing.
    """
    started, speed = 0.0, 0.0
    working = columns
    tokens = [0] * columns
    for count, deltas in enumerate(steps):
        now = time.monotonic()
        # The first step reads the prompt: throughput counts from its end.
        started = started or now
        speed = count / (now - started) if now > started else 0.0
        texts = {delta.row: delta.text for delta in deltas}
        ended = tuple(delta.row for delta in deltas if delta.is_done)
        working -= len(ended)
        for delta in deltas:
            tokens[delta.row] += 1
        reply(
            Reply(
                texts=tuple(texts.get(row, "") for row in range(columns)),
                ended=ended,
                cut=tuple(delta.row for delta in deltas if delta.is_cut),
                tokens_per_second=speed,
                note=note(),
            )
        )
    reply(
        Reply(
            is_done=True,
            note="stopped" if working else "",
            tokens_per_second=speed,
            tokens=tuple(tokens),
        )
    )
