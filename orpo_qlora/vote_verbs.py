"""What the command line does with blind votes: win rates, and pairs to train on. Floor 4."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from orpo_qlora.chat import votes as cast_votes
from orpo_qlora.chat.votes import Score
from orpo_qlora.terminal import out, plain


def add_vote_verbs(app: typer.Typer) -> None:
    """Add these commands to the program's."""
    app.command()(votes)


def votes(
    target: Annotated[
        Path | None,
        typer.Option("--out", help="Write the votes as preference pairs to this .csv or .jsonl."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say how each adapter fares in blind votes, with the 95 % interval of its win rate."""
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
