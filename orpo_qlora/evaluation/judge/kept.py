"""Replies of a judge, kept so that no question is asked twice. Floor 5; no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from orpo_qlora import storage
from orpo_qlora.errors import InputError
from orpo_qlora.evaluation.judge import questions
from orpo_qlora.evaluation.judge.endpoint import KEPT, Endpoint, Reply
from orpo_qlora.evaluation.judge.questions import Chat
from orpo_qlora.evaluation.judge.settings import JudgeSettings, estimate

FOLDER = "verdicts"


def key_of(chat: Chat) -> str:
    """Return the hash of a question."""
    return hashlib.sha256(json.dumps(chat, sort_keys=True).encode()).hexdigest()[:32]


class KeptReplies:
    """Raw replies of one model behind one endpoint, one a line under the home's `verdicts/`."""

    def __init__(self, settings: JudgeSettings) -> None:
        folder = storage.home() / FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)
        about = json.dumps([settings.base_url, settings.model, questions.VERSION])
        name = hashlib.sha256(about.encode()).hexdigest()[:32]
        self.path = folder / f"{name}.jsonl"

    def read(self) -> dict[str, Reply]:
        """Return every reply by the key of its question."""
        return {
            str(one["question"]): Reply(
                str(one["reply"]), int(str(one["tokens_in"])), int(str(one["tokens_out"]))
            )
            for one in storage.read_json_lines(self.path)[0]
            if {"question", "reply", "tokens_in", "tokens_out"} <= one.keys()
        }

    def add(self, replies: Sequence[tuple[Chat, Reply]]) -> None:
        """Append replies.

        Raises:
            DiskFull: those before are kept.
        """
        lines = storage.JsonLines(self.path)
        try:
            for chat, reply in replies:
                lines.append(
                    {
                        "question": key_of(chat),
                        "reply": reply.text,
                        "tokens_in": reply.tokens_in,
                        "tokens_out": reply.tokens_out,
                    }
                )
            lines.sync()
        finally:
            lines.close()


def ask_all(
    chats: Sequence[Chat], settings: JudgeSettings, on_reply: Callable[[int, int], object]
) -> dict[str, Reply]:
    """Return the replies to all questions by key; only those that are not kept are asked.

    Args:
        chats: the questions.
        settings: of the judge.
        on_reply: called with the number of questions answered and asked in this call.

    Raises:
        InputError: the estimated price is above the budget, or the budget is spent.
        OrpoQloraError: the endpoint fails; see `Endpoint.ask`.
    """
    kept = KeptReplies(settings)
    known = kept.read()
    waiting = list({key_of(chat): chat for chat in chats if key_of(chat) not in known}.values())
    expected = estimate((len(chat[-1]["content"]) for chat in waiting), settings)
    if 0 < settings.budget < expected.price:
        raise InputError(
            f"Judging would cost about {expected.price:.2f}, above the budget of "
            f"{settings.budget:.2f}: {expected.sentence}",
            hint="Raise the budget, answer fewer prompts, or choose a cheaper judge.",
        )
    spent, endpoint = 0.0, Endpoint(settings)
    try:
        with ThreadPoolExecutor(settings.parallel) as pool:
            for start in range(0, len(waiting), settings.parallel):
                batch = waiting[start : start + settings.parallel]
                on_reply(start, len(waiting))
                _ask_batch(pool, endpoint, batch, kept, known)
                spent += sum(_price(settings, known[key_of(chat)]) for chat in batch)
                if 0 < settings.budget < spent and start + len(batch) < len(waiting):
                    raise InputError(
                        f"The budget of {settings.budget:.2f} is spent after "
                        f"{start + len(batch):,} of {len(waiting):,} questions.",
                        hint=f"Raise the budget. {KEPT}",
                    )
    finally:
        endpoint.close()
    return known


def _ask_batch(
    pool: ThreadPoolExecutor,
    endpoint: Endpoint,
    batch: Sequence[Chat],
    kept: KeptReplies,
    known: dict[str, Reply],
) -> None:
    """Ask a batch at once; replies are kept even if another question of it fails."""
    waiting = [(chat, pool.submit(endpoint.ask, chat)) for chat in batch]
    failed: Exception | None = None
    for chat, future in waiting:
        error = future.exception()
        if isinstance(error, Exception):
            failed = failed or error
            continue
        reply = future.result()
        kept.add([(chat, reply)])
        known[key_of(chat)] = reply
    if failed is not None:
        raise failed


def _price(settings: JudgeSettings, reply: Reply) -> float:
    return settings.price(reply.tokens_in, reply.tokens_out)
