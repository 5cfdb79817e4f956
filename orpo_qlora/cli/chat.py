"""Commands `chat` and `votes`. Floor 6; no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from orpo_qlora.chat import client
from orpo_qlora.chat import votes as cast_votes
from orpo_qlora.chat.client import ChatSettings, ChatUpdate
from orpo_qlora.chat.votes import Score
from orpo_qlora.cli.console import err, out, plain
from orpo_qlora.cli.options import AsJson, RunName
from orpo_qlora.data.messages import Message
from orpo_qlora.runs import store


def add_chat_verbs(app: typer.Typer) -> None:
    """Add these commands to the program's."""
    app.command()(chat)
    app.command()(votes)


def chat(
    run: RunName,
    message: Annotated[
        list[str] | None,
        typer.Option("--message", "-m", help="Ask this instead of reading lines; repeatable."),
    ] = None,
    system: Annotated[str, typer.Option(help="System prompt.")] = "",
    temperature: Annotated[float, typer.Option(min=0, max=2, help="0 is greedy.")] = 0.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 200,
    seed: Annotated[int, typer.Option(help="Same seed, same draws for both.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Ask base and tuned the same thing; an empty line ends the chat."""
    found = store.find_run(run)
    settings = ChatSettings(
        system=system, temperature=temperature, max_tokens=max_tokens, seed=seed
    )
    base: list[Message] = []
    tuned: list[Message] = []
    for text in message or _typed_lines():
        base.append(Message("user", text))
        tuned.append(Message("user", text))
        last = _answered(client.stream(found, base, tuned, settings))
        base.append(Message("assistant", last.base))
        tuned.append(Message("assistant", last.tuned))
        if as_json:
            answers = {"message": text, "base": last.base, "tuned": last.tuned, "note": last.note}
            out.print_json(json.dumps(answers))
        else:
            out.print(f"[bold]base [/] {plain(last.base)}\n[bold]tuned[/] {plain(last.tuned)}")


def _answered(updates: Iterator[ChatUpdate]) -> ChatUpdate:
    """Print notes to stderr until both answers have ended, and return them."""
    note = ""
    last = ChatUpdate()
    for last in updates:
        if last.note and last.note != note:
            note = last.note
            err.print(plain(note))
    return last


def _typed_lines() -> Iterator[str]:
    """Yield what is typed until an empty line or the end of input."""
    while True:
        try:
            text = out.input("[bold]you  [/] ")
        except EOFError:
            return
        if not text.strip():
            return
        yield text


def votes(
    target: Annotated[
        Path | None,
        typer.Option("--out", help="Write the votes as preference pairs to this .csv or .jsonl."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print each adapter's win rate in blind votes, with its 95 % interval."""
    found = cast_votes.read_votes()
    export = cast_votes.export_of(found)
    if target is not None:
        cast_votes.write_export(target, export)
    scores = cast_votes.scores(found)
    if as_json:
        about = {"votes": len(found), "pairs": len(export.pairs), "left_out": export.left_out}
        out.print_json(json.dumps(about | {"scores": [_as_json(score) for score in scores]}))
        return
    table = Table("adapter", "against", "won", "lost", "ties", "both bad", "win rate")
    for score in scores:
        counts = (score.wins, score.losses, score.ties, score.bad)
        names = (plain(score.one.title), plain(score.other.title))
        table.add_row(*names, *map(str, counts), _win_rate(score))
    out.print(table)
    out.print(f"{len(found)} votes, of which {len(export.pairs)} make a preference pair.")


def _win_rate(score: Score) -> str:
    if score.win_rate is None:
        return ""
    return f"{score.win_rate:.0%} ({score.interval.low:.0%} to {score.interval.high:.0%})"


def _as_json(score: Score) -> dict[str, object]:
    counts = {name: getattr(score, name) for name in ("wins", "losses", "ties", "bad")}
    sides = {"adapter": score.one.run, "against": score.other.run or None, "model": score.model}
    interval = [score.interval.low, score.interval.high] if score.decided else None
    return sides | counts | {"win_rate": score.win_rate, "interval": interval}
