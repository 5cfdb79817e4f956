import pytest
from made_runs import leave_adapter, make_run, named_parts

from orpo_qlora.chat import conversations
from orpo_qlora.chat.client import ChatSettings
from orpo_qlora.chat.conversations import Answer, Conversation, Exchange
from orpo_qlora.errors import ConfigError, InputError
from orpo_qlora.ui.chat import conversation_view as cv
from orpo_qlora.ui.chat import messages as messages_view
from orpo_qlora.ui.chat import tab as chat_tab
from orpo_qlora.ui.chat import turns as chat_turns
from orpo_qlora.ui.chat.tab import ChatTab
from orpo_qlora.ui.chat.turns import ChatInputs
from orpo_qlora.ui.chat.votes_panel import VotesPanel

MARKUP = '<img src=x onerror="alert(1)"> &amp; 1 < 2 **bold** ![x](http://evil.example/x.png)'
SETTINGS = ("", 0.7, 0.95, 64, 3)


def named_view():
    """A conversation's components, each its own name."""
    return named_parts(
        cv.ConversationView,
        picker=named_parts(cv.ColumnPicker),
        votes=named_parts(cv.VoteButtons, buttons={}),
        editing=named_parts(cv.Editing),
        question=named_parts(cv.Question),
        settings=named_parts(cv.AnswerSettings),
        panel=named_parts(VotesPanel, downloads={}),
    )


def exchange(**values):
    answers = (
        Answer(text="one", is_whole=True),
        Answer(run="r-id", title="my run", sha256="ab" * 32, text="two", is_whole=True),
    )
    usual = {"message": "hi", "settings": ChatSettings(seed=7), "answers": answers}
    return Exchange(id=conversations.new_id(), **(usual | values))


def test_texts_of_people_and_models_stay_text():
    marked = Answer(run="r", title=MARKUP, text=MARKUP, is_whole=True, sha256=MARKUP)
    shown = messages_view.exchange_html(exchange(message=MARKUP, answers=(marked,), note=MARKUP), 1)
    assert "<img" not in shown
    assert 'onerror="' not in shown
    assert shown.count("&lt;img src=x onerror=&quot;alert(1)&quot;&gt; &amp;amp; 1 &lt; 2") == 5


def test_every_answer_carries_its_proof():
    shown = messages_view.exchange_html(exchange(), 1)
    assert "adapter off · seed 7" in shown
    assert "adapter on · abababab · seed 7" in shown
    assert f"weights as loaded: {'ab' * 32}" in shown


@pytest.mark.parametrize("is_live", [True, False])
def test_nothing_reveals_a_blind_side_before_the_vote(is_live):
    asked = exchange(is_blind=True)
    shown = messages_view.exchange_html(asked, 1, is_live=is_live)
    for secret in ("Base", "base", "my run", "r-id", "abab", "adapter"):
        assert secret not in shown, secret
    assert "Answer A" in shown
    assert 'data-column="b"' in shown
    revealed = messages_view.exchange_html(asked.model_copy(update={"vote": "b"}), 1)
    assert "A: Base model" in revealed
    assert 'B: my run <span class="pill">your choice</span>' in revealed


def test_an_answer_that_was_lost_says_so():
    lost = exchange(answers=(Answer(),))
    assert messages_view.LOST in messages_view.exchange_html(lost, 1)
    assert messages_view.LOST not in messages_view.exchange_html(lost, 1, is_live=True)
    assert messages_view.LOST not in messages_view.exchange_html(exchange(), 1)


def test_cleared_inputs_fall_back_to_the_defaults():
    assert cv.settings_from([None, None, None, None, None]) == cv.DEFAULTS


@pytest.mark.parametrize(
    ("picked", "is_blind", "message"),
    [
        ((), False, "No run is chosen"),
        (("base",), False, "No run is chosen"),
        (("base", *"abcd"), False, "5 columns are chosen"),
    ],
)
def test_columns_that_cannot_answer_are_refused(picked, is_blind, message):
    with pytest.raises(InputError, match=message):
        next(chat_turns.send_updates(None, ChatInputs("", picked, is_blind, SETTINGS), "hi"))


def test_settings_out_of_bounds_keep_nothing(own_home):
    with pytest.raises(ConfigError, match="seed"):
        next(
            chat_turns.send_updates(
                None, ChatInputs("", ("base",), False, (*SETTINGS[:4], -1)), "hi"
            )
        )
    assert list(own_home.rglob("conversations/*.json")) == []


def test_a_question_that_waits_for_its_vote_comes_first():
    talk = Conversation(id=conversations.new_id(), exchanges=(exchange(is_blind=True),))
    conversations.save(talk)
    with pytest.raises(InputError, match="waits for your vote"):
        next(chat_turns.send_updates(None, ChatInputs(talk.id, ("base",), True, SETTINGS), "next"))


def test_a_blank_message_changes_nothing():
    """It yields no updates: gradio empties the outputs of a handler that yields nothing."""
    inputs = ChatInputs(conversations.new_id(), (), False, SETTINGS)
    assert list(chat_turns.send_updates(None, inputs, "  \n")) == [{}]
    assert list(chat_turns.again_updates(None, inputs)) == [{}]


def test_a_page_without_a_conversation_shows_prompts():
    view = named_view()
    for name in ("", conversations.new_id()):
        (updates,) = chat_turns.restore_updates(view, name)
        assert "Ask every model the same question" in updates[view.newest]
        assert updates[view.conversation_id] == ""


def test_an_unchanged_choice_is_not_sent_back():
    """It would replace a choice made before the answer arrived."""
    paths = make_run()
    leave_adapter(paths)
    tab = named_parts(ChatTab, view=named_view())

    def sent(wanted):
        return chat_tab.select_updates(tab, wanted)["runs"].get("value")

    assert sent(["base", paths.id]) is None
    assert sent(paths.id) == sent([]) == sent(["gone"]) == ["base", paths.id]


@pytest.mark.parametrize(
    ("parameters", "found"),
    [
        ('{"chat": "%s"}' % ("a" * 32), "a" * 32),
        ('{"chat": "../x"}', ""),
        ('{"chat": 3}', ""),
        ("[]", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_only_a_conversation_is_taken_from_the_address(parameters, found):
    assert chat_tab.conversation_of(parameters) == found
