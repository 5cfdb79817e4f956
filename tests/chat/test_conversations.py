import os

import pytest

from orpo_qlora.chat import conversations
from orpo_qlora.chat.client import ChatSettings
from orpo_qlora.chat.conversations import Answer, Conversation, Exchange
from orpo_qlora.data.messages import Message
from orpo_qlora.errors import InputError


def exchange(message, *answers, **values):
    return Exchange(
        id=conversations.new_id(),
        message=message,
        settings=ChatSettings(),
        answers=[Answer(run=run, text=text, is_whole=True) for run, text in answers],
        **values,
    )


def turns(*contents):
    return tuple(
        Message("assistant" if place % 2 else "user", content)
        for place, content in enumerate(contents)
    )


def test_each_column_continues_its_own_answers():
    talk = Conversation(id="x", exchanges=[exchange("hi", ("", "base"), ("r", "tuned"))])
    assert talk.turns_of("") == turns("hi", "base")
    assert talk.turns_of("r") == turns("hi", "tuned")


def test_a_column_that_came_later_knows_the_first_answers():
    talk = Conversation(id="x", exchanges=[exchange("hi", ("", "base"), ("r", "tuned"))])
    assert talk.turns_of("new") == turns("hi", "base")


@pytest.mark.parametrize(
    ("vote", "kept"), [("a", "left"), ("b", "right"), ("tie", "left"), ("bad", "left")]
)
def test_blind_sides_continue_the_preferred_answer(vote, kept):
    asked = exchange("hi", ("r", "left"), ("", "right"), is_blind=True, vote=vote)
    assert Conversation(id="x", exchanges=[asked]).shared_turns() == turns("hi", kept)


def test_a_message_without_an_answer_is_not_sent_again():
    talk = Conversation(
        id="x", exchanges=[exchange("lost", ("", ""), ("r", "mine")), exchange("hi", ("", "yes"))]
    )
    assert talk.turns_of("") == turns("hi", "yes")
    assert talk.turns_of("r") == turns("lost", "mine", "hi", "yes")


def test_votes_are_asked_for_once_both_answers_are_whole():
    half = exchange("hi", ("r", "left"), ("", "right"), is_blind=True)
    assert half.is_votable
    assert half.hides_names
    assert not half.model_copy(update={"vote": "tie"}).is_votable
    assert not half.model_copy(update={"is_blind": False}).is_votable
    stopped = half.answers[1].model_copy(update={"is_whole": False})
    assert not half.model_copy(update={"answers": (half.answers[0], stopped)}).is_votable


def test_a_conversation_is_on_disk_and_private(own_home):
    talk = Conversation(id=conversations.new_id(), exchanges=[exchange("hi", ("", "é<b>\n"))])
    conversations.save(talk)
    assert conversations.load(talk.id) == talk
    folder = own_home / "chat" / "conversations"
    assert folder.stat().st_mode & 0o077 == 0
    unknown = conversations.new_id()
    assert conversations.load(unknown) == Conversation(id=unknown)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "a" * 31, "A" * 32, "a" * 32 + "\n"])
def test_a_name_from_the_address_is_no_path(name):
    with pytest.raises(InputError):
        conversations.load(name)


def test_an_unreadable_file_is_reported_and_left_unchanged():
    talk = Conversation(id=conversations.new_id())
    conversations.save(talk)
    path = conversations._file(talk.id)
    path.write_text('{"id": "of tomorrow"')
    with pytest.raises(InputError, match="damaged or from another version") as caught:
        conversations.update(talk.id, exchange("hi", ("", "there")))
    assert caught.value.where == str(path)
    assert path.read_text() == '{"id": "of tomorrow"'


def test_an_answer_that_was_asked_again_does_not_come_back():
    first, second = exchange("hi", ("", "old")), exchange("hi", ("", "new"))
    talk = Conversation(id=conversations.new_id(), exchanges=[second])
    conversations.save(talk)
    assert conversations.update(talk.id, first) == talk
    better = second.model_copy(update={"note": "Stopped."})
    assert conversations.update(talk.id, better).exchanges == (better,)
    assert conversations.load(talk.id).exchanges == (better,)


def test_the_quietest_conversation_is_forgotten_first(monkeypatch):
    monkeypatch.setattr(conversations, "KEPT", 2)
    talks = [Conversation(id=conversations.new_id()) for _ in range(3)]
    for age, talk in enumerate(talks[:2]):
        conversations.save(talk)
        os.utime(conversations._file(talk.id), (age, age))
    os.utime(conversations._file(talks[0].id), (5, 5))
    conversations.save(talks[2])
    assert [conversations._file(talk.id).exists() for talk in talks] == [True, False, True]
