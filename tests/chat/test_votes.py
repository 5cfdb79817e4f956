import json

import pytest

from orpo_qlora.chat import conversations, votes
from orpo_qlora.chat.client import ChatSettings
from orpo_qlora.chat.conversations import Answer, Conversation, Exchange
from orpo_qlora.chat.votes import CastVote
from orpo_qlora.data.messages import Message
from orpo_qlora.data.pairs import load_preferences
from orpo_qlora.errors import InputError
from orpo_qlora.runs.curves.intervals import Interval, wilson

RUN, LATER = "20260101-000000-0001", "20260102-000000-0001"


def answer(text, run="", sha256="", **values):
    return Answer(run=run, sha256=sha256 or run, title=run or "Base model", text=text, **values)


def vote(choice, a, b, *earlier, prompt="why?", name=""):
    return CastVote(
        id=name or conversations.new_id(),
        at=0.0,
        model="base",
        turns=(*earlier, Message("user", prompt)),
        a=a,
        b=b,
        vote=choice,
        settings=ChatSettings(),
    )


def blind(message, left, right, choice="", **settings):
    return Exchange(
        id=conversations.new_id(),
        message=message,
        settings=ChatSettings(**settings),
        answers=(answer(left, RUN, is_whole=True), answer(right, is_whole=True)),
        is_blind=True,
        vote=choice,
    )


def test_a_vote_is_counted_for_the_run_whichever_side_it_was_on():
    run, base = answer("r", RUN), answer("b")
    given = [
        vote("a", run, base),
        vote("b", base, run),
        vote("a", base, run),
        vote("tie", base, run),
        vote("bad", run, base),
    ]
    (score,) = votes.scores(given)
    assert (score.one.run, score.other.run) == (RUN, "")
    assert (score.wins, score.losses, score.ties, score.bad) == (2, 1, 1, 1)
    assert score.win_rate == pytest.approx(2 / 3)
    assert score.interval == wilson(2 / 3, 3)


def test_an_adapter_that_changed_is_another_one():
    given = [
        vote("a", answer("r", RUN, "old"), answer("b")),
        vote("b", answer("r", RUN, "new"), answer("b")),
        vote("b", answer("r", RUN), answer("r", LATER)),
    ]
    latest, new, old = votes.scores(given)
    assert (latest.one.run, latest.other.run, latest.wins) == (LATER, RUN, 1)
    assert (new.one.sha256, new.wins, new.losses) == ("new", 0, 1)
    assert (old.one.sha256, old.wins, old.losses) == ("old", 1, 0)


def test_no_decided_vote_has_no_win_rate():
    (score,) = votes.scores([vote("tie", answer("r", RUN), answer("b"))])
    assert score.win_rate is None
    assert score.interval == Interval(0.0, 0.0, 1.0, "wilson")


def test_a_vote_is_kept_once_with_everything_it_is_about():
    first = blind("hello", "hi", "go away", "a", system="Be kind.")
    talk = Conversation(
        id=conversations.new_id(),
        exchanges=(first, blind("why?", "so", "because", system="Be kind.", seed=4)),
    )
    conversations.save(talk)
    shown = votes.cast(talk.id, "b")
    assert shown.last.vote == "b"
    assert conversations.load(talk.id) == shown
    with pytest.raises(InputError, match="nothing to vote on"):
        votes.cast(talk.id, "a")
    (kept,) = votes.read_votes()
    assert (kept.vote, kept.a.run, kept.b.run) == ("b", RUN, "")
    assert kept.settings.seed == 4
    assert kept.turns == (
        Message("system", "Be kind."),
        Message("user", "hello"),
        Message("assistant", "hi"),
        Message("user", "why?"),
    )


def test_a_blank_system_prompt_is_none_for_models_and_pairs_alike():
    asked = blind("why?", "so", "because", system=" \n")
    assert asked.settings.system_turns == ()
    talk = Conversation(id=conversations.new_id(), exchanges=(asked,))
    conversations.save(talk)
    votes.cast(talk.id, "a")
    assert votes.read_votes()[0].turns == (Message("user", "why?"),)


def test_a_vote_before_both_answers_are_there_is_refused():
    exchange = blind("why?", "so", "because")
    half = exchange.answers[1].model_copy(update={"is_whole": False})
    stopped = exchange.model_copy(update={"answers": (exchange.answers[0], half)})
    talk = Conversation(id=conversations.new_id(), exchanges=(stopped,))
    conversations.save(talk)
    with pytest.raises(InputError, match="nothing to vote on"):
        votes.cast(talk.id, "a")
    assert votes.read_votes() == []


def test_a_torn_line_and_a_line_of_tomorrow_cost_no_vote():
    path = votes.votes_file()
    votes._append(vote("a", answer("r", RUN), answer("b"), name="one"))
    with path.open("a") as file:
        file.write('{"id": "of tomorrow"}\n{"id": "torn')
    votes._append(vote("b", answer("r", RUN), answer("b"), name="one"))
    votes._append(vote("tie", answer("r", RUN), answer("b"), name="two"))
    assert [(given.id, given.vote) for given in votes.read_votes()] == [
        ("one", "b"),
        ("two", "tie"),
    ]
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0
    assert all(json.loads(line) for line in path.read_text().splitlines())


TALKS = {
    "single questions": ((), ()),
    "whole conversations": (
        (),
        (
            Message("system", "Be “kind”."),
            Message("user", "hi, all\n"),
            Message("assistant", "=1+1"),
        ),
    ),
}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@pytest.mark.parametrize("talks", TALKS.values(), ids=TALKS)
def test_votes_come_back_as_the_pairs_they_are(tmp_path, talks, suffix):
    given = [
        vote("a", answer("=so, “good”\n\n- yes", RUN), answer("no 🙂"), *talks[0], prompt="why?"),
        vote("b", answer("bad\tone", RUN), answer("{better}"), *talks[1], prompt="and then?"),
        vote("tie", answer("x", RUN), answer("y")),
        vote("bad", answer("x", RUN), answer("y")),
        vote("a", answer("x", RUN, is_cut=True), answer("y")),
        vote("a", answer("x", RUN), answer("cut but worse", is_cut=True), prompt="third?"),
        vote("a", answer("same", RUN), answer("same")),
        vote("b", answer("x", RUN), answer(" ")),
    ]
    export = votes.export_of(given)
    assert export.left_out == {
        "no answer was better": 2,
        "the better answer was cut at the longest answer": 1,
        "both answers are the same": 1,
        "an answer is empty": 1,
    }
    assert [pair.prompt for pair in export.pairs] == ["why?", "and then?", "third?"]
    path = tmp_path / f"votes{suffix}"
    votes.write_export(path, export)
    dataset = load_preferences(path)
    assert tuple(dataset.pairs) == export.pairs
    assert dataset.report.pairs == dataset.report.rows_read == 3
    second = dataset.pairs[1]
    assert (second.prompt, second.chosen, second.rejected) == ("and then?", "{better}", "bad\tone")
    assert second.earlier == talks[1]


def test_no_pair_is_no_file(tmp_path):
    with pytest.raises(InputError, match="No vote makes a preference pair yet"):
        votes.write_export(tmp_path / "votes.csv", votes.export_of([]))
    assert list(tmp_path.glob("votes*")) == []
