"""Blind votes on the command line, in this process."""

import json

import pytest
from typer.testing import CliRunner

from orpo_qlora.chat import conversations, votes
from orpo_qlora.chat.client import ChatSettings
from orpo_qlora.chat.conversations import Answer, Conversation, Exchange
from orpo_qlora.cli import main
from orpo_qlora.data.pairs import load_preferences
from orpo_qlora.errors import InputError
from orpo_qlora.runs.curves.intervals import wilson

RUN = "20260101-000000-0001"


def said(*arguments):
    return CliRunner().invoke(main.app, ["votes", *arguments], catch_exceptions=False).output


def cast(vote, *, on):
    """Vote on a fresh question; the tuned answer stands first."""
    tuned = Answer(run=RUN, title="mine", sha256="ab", text=f"tuned {on}", is_whole=True)
    base = Answer(text=f"base {on}", is_whole=True)
    conversation = Conversation(id=conversations.new_id()).with_exchange(
        Exchange(
            id=conversations.new_id(),
            message=on,
            settings=ChatSettings(),
            model="demo",
            answers=(tuned, base),
            is_blind=True,
        )
    )
    conversations.save(conversation)
    votes.cast(conversation.id, vote)


def test_win_rates_have_an_interval():
    for number, vote in enumerate(("a", "a", "b", "tie", "bad")):
        cast(vote, on=f"q{number}")
    report = json.loads(said("--json"))
    assert (report["votes"], report["pairs"]) == (5, 3)
    (score,) = report["scores"]
    assert (score["adapter"], score["against"]) == (RUN, None)
    assert [score[name] for name in ("wins", "losses", "ties", "bad")] == [2, 1, 1, 1]
    interval = wilson(2 / 3, 3)
    assert score["interval"] == [interval.low, interval.high]
    assert f"67% ({interval.low:.0%} to {interval.high:.0%})" in said()


def test_votes_leave_as_pairs_that_the_data_tab_takes(tmp_path):
    with pytest.raises(InputError, match="No vote makes"):
        said("--out", str(tmp_path / "none.csv"))
    cast("b", on="why?")
    said("--out", str(tmp_path / "votes.csv"))
    (pair,) = load_preferences(tmp_path / "votes.csv").pairs
    assert (pair.prompt, pair.chosen, pair.rejected) == ("why?", "base why?", "tuned why?")


def test_no_votes_are_no_error():
    assert json.loads(said("--json"))["scores"] == []
    assert "0 votes" in said()
