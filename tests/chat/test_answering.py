"""Background answers, with a real chat process and a tiny real model."""

import threading
from contextlib import closing

import pytest
from talk import ENDLESS, GREEDY

from orpo_qlora.chat import answering, conversations
from orpo_qlora.chat.conversations import Answer, Conversation, Exchange
from orpo_qlora.data.messages import Message
from orpo_qlora.errors import Busy, ModelNotFound

pytestmark = pytest.mark.usefixtures("shared_home")

PATIENCE_SECONDS = 120


def question(run, settings=GREEDY, message="What is gravity?"):
    return Exchange(
        id=conversations.new_id(),
        message=message,
        settings=settings,
        answers=(Answer(), Answer(run=run.id, title=run.title)),
    )


def new_talk():
    return Conversation(id=conversations.new_id())


def started(run):
    """Return an endless answer that has text already."""
    talk = new_talk()
    under_way = answering.begin(talk, question(run, ENDLESS))
    with closing(under_way.follow()) as updates:
        next(answers for answers in updates if all(answers.texts))
    return talk, under_way


def test_an_answer_is_kept_and_every_follower_sees_it(run):
    talk, asked = new_talk(), question(run)
    under_way = answering.begin(talk, asked)
    assert answering.under_way(talk.id) is under_way
    seen = []
    other = threading.Thread(target=lambda: seen.extend(under_way.follow()))
    other.start()
    *_, last = under_way.follow()
    other.join(PATIENCE_SECONDS)
    assert seen[-1] == last
    assert answering.under_way(talk.id) is None
    kept = conversations.load(talk.id)
    assert kept.exchanges == (under_way.exchange,)
    assert [answer.text for answer in kept.exchanges[0].answers] == list(last.texts)
    assert all(answer.is_whole and answer.is_cut for answer in kept.exchanges[0].answers)
    assert kept.exchanges[0].answers[0].sha256 == ""
    assert len(kept.exchanges[0].answers[1].sha256) == 64
    assert kept.exchanges[0].note == ""
    columns = answering.columns_of(kept, question(run, message="Why?"))
    assert [column.turns[1] for column in columns] == [
        Message("assistant", text) for text in last.texts
    ]
    assert {column.turns[-1] for column in columns} == {Message("user", "Why?")}


def test_a_question_is_kept_before_it_is_answered(run):
    """So a page that is reloaded meanwhile shows it and can follow it."""
    talk, under_way = started(run)
    kept = conversations.load(talk.id)
    assert [exchange.id for exchange in kept.exchanges] == [under_way.exchange.id]
    with pytest.raises(Busy, match="being answered already"):
        answering.begin(talk, question(run))
    under_way.stop()
    *_, last = under_way.follow()
    exchange = conversations.load(talk.id).exchanges[0]
    assert exchange.note == "Stopped."
    assert [answer.text for answer in exchange.answers] == list(last.texts)
    assert not any(answer.is_whole for answer in exchange.answers)
    again = answering.begin(talk, question(run))
    *_, last = again.follow()
    assert last.is_done, "the conversation can continue"


def test_a_question_asked_from_an_old_view_takes_nothing_back(run):
    """Two tabs, or Enter just when the answer ends: the view is from before its end."""
    talk, under_way = started(run)
    seen = talk.with_exchange(under_way.exchange)
    under_way.stop()
    *_, last = under_way.follow()
    again = answering.begin(seen, question(run, message="And why?"))
    first, second = conversations.load(talk.id).exchanges
    assert [answer.text for answer in first.answers] == list(last.texts)
    assert second.message == "And why?"
    *_, last = again.follow()
    assert last.is_done


def test_an_answer_that_no_page_follows_ends(run, monkeypatch):
    talk, under_way = started(run)
    assert under_way.exchange.note == ""
    monkeypatch.setattr(answering, "ALONE_SECONDS", 0.2)
    under_way.join(PATIENCE_SECONDS)
    exchange = conversations.load(talk.id).exchanges[0]
    assert exchange.note == "Stopped: no page was open to read it."
    assert all(answer.text and not answer.is_whole for answer in exchange.answers)


def test_a_failure_is_reported_and_kept(make_run):
    run = make_run(has_adapter=False)
    talk = new_talk()
    under_way = answering.begin(talk, question(run))
    assert not any(any(answers.texts) for answers in under_way.follow())
    assert isinstance(under_way.error, ModelNotFound)
    assert "has no adapter" in conversations.load(talk.id).exchanges[0].note
