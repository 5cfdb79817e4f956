import pytest

from orpo_qlora.models.sampling import Turn
from orpo_qlora.ui import chat_tab
from orpo_qlora.ui.chat_tab import Histories

MARKUP = '<img src=x onerror="alert(1)"> &amp; 1 < 2 **bold** ![x](http://evil.example/x.png)'


@pytest.mark.parametrize("text", [MARKUP, "&lt;b&gt;", "&copy", "line\nbreak", "ok"])
def test_text_is_escaped_for_the_column_and_comes_back_unchanged(text):
    shown = chat_tab.messages_of([Turn("assistant", text)])
    assert "<" not in shown[0]["content"]
    assert chat_tab.turns_of(shown) == [Turn("assistant", text)]


def test_message_in_parts_is_one_text():
    message = {"role": "user", "content": [{"type": "text", "text": "a &lt; b"}]}
    assert chat_tab.turns_of([message]) == [Turn("user", "a < b")]


def test_answer_that_has_not_begun_is_not_a_bubble():
    assert chat_tab.messages_of([Turn("user", "hi"), Turn("assistant", "")]) == [
        {"role": "user", "content": "hi"}
    ]


def test_each_column_keeps_its_own_history():
    histories = Histories(
        base=[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "base"}],
        tuned=[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "tuned"}],
    )
    base, tuned = histories.asked("more")
    assert [turn.content for turn in base] == ["hi", "base", "more"]
    assert [turn.content for turn in tuned] == ["hi", "tuned", "more"]


def test_message_that_was_never_answered_is_not_sent_again():
    histories = Histories(base=[{"role": "user", "content": "lost"}], tuned=[])
    assert histories.asked("again") == ([Turn("user", "again")], [Turn("user", "again")])


def test_cleared_inputs_fall_back_to_the_defaults():
    assert chat_tab.settings_from([None, None, None, None, None]) == chat_tab.DEFAULTS
