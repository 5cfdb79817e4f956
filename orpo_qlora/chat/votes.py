"""Votes of blind comparisons: stored, counted, exported as preference pairs. Floor 5; no torch.

`votes/votes.jsonl` under the home has one vote per line. Both answers of a vote have the same
history, so a vote is a preference pair.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from orpo_qlora import storage
from orpo_qlora.chat import conversations
from orpo_qlora.chat.client import ChatSettings
from orpo_qlora.chat.conversations import Answer, Conversation, Exchange, Vote
from orpo_qlora.data.export import write_clean
from orpo_qlora.data.messages import Message
from orpo_qlora.data.pairs import PreferencePair
from orpo_qlora.errors import InputError
from orpo_qlora.runs.curves.intervals import Interval, wilson


class CastVote(BaseModel):
    """One vote, with both answers and their history."""

    model_config = ConfigDict(frozen=True)

    id: str
    """Id of the question; of two votes with one id the later one counts."""
    at: float
    model: str
    turns: tuple[Message, ...]
    """History of both answers: a system prompt first, the message last."""
    a: Answer
    b: Answer
    vote: Vote
    settings: ChatSettings


@dataclass(frozen=True)
class Score:
    """Votes on one adapter against another, or against the base model."""

    model: str
    one: Answer
    other: Answer
    wins: int = 0
    losses: int = 0
    ties: int = 0
    bad: int = 0
    """Votes “both are bad”."""

    @property
    def decided(self) -> int:
        """Votes that preferred one answer."""
        return self.wins + self.losses

    @property
    def win_rate(self) -> float | None:
        """Wins as a share of the decided votes; None without any."""
        return self.wins / self.decided if self.decided else None

    @property
    def interval(self) -> Interval:
        """95 % interval of the win rate (Wilson)."""
        return wilson(self.win_rate or 0.0, self.decided)


@dataclass(frozen=True)
class Export:
    """Preference pairs from votes, and the number of skipped votes by reason."""

    pairs: tuple[PreferencePair, ...]
    left_out: dict[str, int]


def votes_file() -> Path:
    """Return the file of votes, in a private folder made if missing."""
    folder = storage.home() / "votes"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / "votes.jsonl"


def cast(conversation_id: str, vote: Vote) -> Conversation:
    """Save a vote on a conversation's newest question, and return the conversation.

    Raises:
        InputError: an answer is missing, or the question has a vote already.
        DiskFull: the vote is not saved and can be cast again.
    """
    with conversations.locked():
        conversation = conversations.load(conversation_id)
        exchange = conversation.last
        if exchange is None or not exchange.is_votable:
            raise InputError(
                "There is nothing to vote on now.",
                hint="Ask something in blind mode and wait for both answers.",
            )
        # Saved first: a crash in between costs a second line with the same id.
        _append(_vote_of(conversation, exchange, vote))
        voted = conversation.with_exchange(exchange.model_copy(update={"vote": vote}))
        conversations.save(voted)
    return voted


def _vote_of(conversation: Conversation, exchange: Exchange, vote: Vote) -> CastVote:
    return CastVote(
        id=exchange.id,
        at=time.time(),
        model=exchange.model,
        turns=(
            *exchange.settings.system_turns,
            *conversation.before(exchange.id).shared_turns(),
            Message("user", exchange.message),
        ),
        a=exchange.answers[0],
        b=exchange.answers[1],
        vote=vote,
        settings=exchange.settings,
    )


def _append(vote: CastVote) -> None:
    path = votes_file()
    with storage.FileLock(path.with_name("lock")):
        lines = storage.JsonLines(path)
        try:
            lines.append(vote.model_dump(mode="json"))
            lines.sync()
        finally:
            lines.close()


def read_votes() -> list[CastVote]:
    """Return every vote, oldest first; lines of another version are skipped."""
    found: dict[str, CastVote] = {}
    for record in storage.read_json_lines(votes_file())[0]:
        try:
            vote = CastVote.model_validate(record)
        except ValidationError:
            continue
        found[vote.id] = vote
    return list(found.values())


def scores(votes: Iterable[CastVote]) -> list[Score]:
    """Return one score per pair of adapters, the pair with the latest vote first.

    An adapter is its file: a run that was resumed starts a new score.
    """
    counts: dict[tuple[str, ...], Counter[str]] = {}
    sides: dict[tuple[str, ...], tuple[str, Answer, Answer]] = {}
    for vote in votes:
        is_swapped = _rank(vote.a) < _rank(vote.b)
        one, other = (vote.b, vote.a) if is_swapped else (vote.a, vote.b)
        key = (vote.model, one.run, one.sha256, other.run, other.sha256)
        better = {"a": "losses", "b": "wins"} if is_swapped else {"a": "wins", "b": "losses"}
        # Reinserted at the end: the order is that of the last vote.
        counted = counts.pop(key, Counter())
        counted[better.get(vote.vote, "ties" if vote.vote == "tie" else "bad")] += 1
        counts[key] = counted
        sides[key] = (vote.model, one, other)
    return [
        Score(*sides[key], counted["wins"], counted["losses"], counted["ties"], counted["bad"])
        for key, counted in reversed(counts.items())
    ]


def _rank(answer: Answer) -> tuple[bool, str]:
    # A run is scored against the base model, and a newer run against an older one.
    return bool(answer.run), answer.run


def export_of(votes: Sequence[CastVote]) -> Export:
    """Return the votes as pairs: the preferred answer chosen, the other one rejected."""
    pairs: list[PreferencePair] = []
    left_out: Counter[str] = Counter()
    for vote in votes:
        better, worse = (vote.b, vote.a) if vote.vote == "b" else (vote.a, vote.b)
        reason = _reason_against(vote.vote, better, worse)
        if reason:
            left_out[reason] += 1
            continue
        *earlier, prompt = vote.turns
        pairs.append(
            PreferencePair(
                prompt=prompt.content,
                chosen=better.text,
                rejected=worse.text,
                row=len(pairs) + 1,
                earlier=tuple(earlier),
            )
        )
    return Export(tuple(pairs), dict(left_out))


def _reason_against(vote: Vote, better: Answer, worse: Answer) -> str:
    """Return why a vote makes no pair, empty if it makes one."""
    if vote not in {"a", "b"}:
        return "no answer was better"
    if better.is_cut:
        # Training on it would teach the model to end in mid-sentence.
        return "the better answer was cut at the longest answer"
    if not better.text.strip() or not worse.text.strip():
        return "an answer is empty"
    return "both answers are the same" if better.text == worse.text else ""


def write_export(path: Path, export: Export) -> None:
    """Write the pairs as CSV or JSON Lines, by the file's ending; the Data tab reads both.

    Raises:
        InputError: there is no pair, or a text cannot be written as CSV.
        DiskFull: an earlier file is kept.
    """
    if not export.pairs:
        raise InputError(
            "No vote makes a preference pair yet.",
            hint="Compare in blind mode and vote for the better answer.",
        )
    write_clean(path, export.pairs)
