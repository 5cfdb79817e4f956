import logging

import gradio as gr
import pytest

from orpo_qlora.errors import DataError
from orpo_qlora.ui.parts.guard import guarded, guarded_stream


@pytest.fixture
def card():
    return gr.HTML(render=False)


def fail_for_the_person():
    raise DataError("Row 17 is <empty>.", hint="Fill it.", where="pairs.csv, row 17")


def fail_internally():
    raise KeyError("secret detail hf_abcdefghijklmnopqrstuvwxyz")


def test_success_empties_the_card(card):
    other = gr.HTML(render=False)
    assert guarded(card, lambda value: {other: value})("text") == {card: "", other: "text"}


def test_no_change_leaves_the_page_alone(card):
    assert guarded(card, lambda: None)() == gr.skip()


def test_an_unrequested_refresh_leaves_the_card_unchanged(card):
    other = gr.HTML(render=False)
    look = guarded(card, lambda updates: updates, keeps_card=True)
    assert look({other: "text"}) == {other: "text"}
    assert look(None) == look({}) == gr.skip()
    assert "Row 17" in guarded(card, fail_for_the_person, keeps_card=True)()[card]


def test_error_for_the_user_is_shown_whole_and_escaped(card):
    shown = guarded(card, fail_for_the_person)()[card]
    assert "Row 17 is &lt;empty&gt;." in shown
    assert "Fill it." in shown
    assert "pairs.csv, row 17" in shown


def test_internal_error_is_logged_and_not_shown(card, caplog):
    with caplog.at_level(logging.ERROR):
        shown = guarded(card, fail_internally)()[card]
    assert "Internal error" in shown
    assert "secret detail" not in shown
    assert "Traceback" in caplog.text
    assert "fail_internally" in caplog.text
    assert "hf_abc" not in caplog.text


def test_failure_also_resets_what_it_should(card):
    button = gr.Button(render=False)
    updates = guarded(card, fail_for_the_person, {button: "ready"})()
    assert updates[button] == "ready"


def test_stream_shows_its_updates_and_then_its_error(card):
    other = gr.HTML(render=False)

    def handler():
        yield {other: "one"}
        fail_for_the_person()

    first, second = guarded_stream(card, handler, {other: "reset"})()
    assert first == {card: "", other: "one"}
    assert second[other] == "reset"
    assert "Row 17" in second[card]


def test_closing_a_stream_closes_the_handler(card):
    closed = []

    def handler():
        try:
            yield {}
            yield {}
        finally:
            closed.append(True)

    stream = guarded_stream(card, handler)()
    next(stream)
    stream.close()
    assert closed
