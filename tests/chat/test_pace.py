"""The processor time an answer may take beside a run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orpo_qlora.chat import pace
from orpo_qlora.chat.pace import (
    AT_ONCE_SECONDS,
    LOOK_SECONDS,
    RESTING,
    SAVED_SECONDS,
    SHARE,
    WORD_SECONDS,
    Pace,
)


class Time:
    """A clock and the processor time used, moved by hand."""

    def __init__(self):
        self.now = self.used = 100.0

    def compute(self, seconds):
        self.now += seconds
        self.used += seconds


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def kept(time):
    """A pace kept beside a run."""
    return pace_beside_a_run(time)


def pace_beside_a_run(time):
    kept = Pace(lambda: time.now, lambda: time.used)
    kept.keep(True)
    kept.begin()
    return kept


def never():
    return False


@given(
    steps=st.lists(st.tuples(st.floats(0, 3), st.floats(0, 60)), min_size=1, max_size=40),
)
def test_beside_a_run_no_more_is_used_than_was_given_at_once_and_earned(steps):
    time = Time()
    kept = pace_beside_a_run(time)
    for answering, idle in steps:
        time.compute(answering)
        time.now += kept.rest_seconds()
        assert time.used - 100 <= AT_ONCE_SECONDS + SHARE * (time.now - 100) + 1e-6
        time.now += idle


def test_what_is_over_is_waited_for_and_no_longer(kept, time):
    time.compute(AT_ONCE_SECONDS + 1)
    rest = kept.rest_seconds()
    assert rest == pytest.approx(1 / SHARE - AT_ONCE_SECONDS - 1)
    time.now += rest
    assert kept.rest_seconds() == pytest.approx(0, abs=1e-6)


def test_a_night_without_a_question_does_not_pay_for_a_night_of_questions(kept, time):
    time.now += 100_000
    time.compute(SAVED_SECONDS)
    assert kept.rest_seconds() == 0
    time.compute(1)
    assert kept.rest_seconds() > 0


def test_loading_a_model_is_not_held_against_its_answer(kept, time):
    time.compute(AT_ONCE_SECONDS * 3)
    kept.begin()
    assert kept.rest_seconds() == 0


def test_the_next_run_finds_a_chat_that_owes_nothing(kept, time):
    time.compute(AT_ONCE_SECONDS * 3)
    assert kept.rest_seconds() > 0
    kept.keep(False)
    time.compute(AT_ONCE_SECONDS * 3)
    assert kept.rest(lambda note: None, never) == ""
    kept.keep(True)
    assert kept.rest_seconds() == 0


@pytest.fixture
def naps(kept, time, monkeypatch):
    """How long was slept, each time; the clock goes on meanwhile."""
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        time.now += seconds

    monkeypatch.setattr(pace.time, "sleep", sleep)
    return slept


def test_a_rest_says_so_again_and_again_and_ends_by_itself(kept, time, naps):
    said = []

    def say(note):
        said.append((note, time.now))

    assert kept.rest(say, never) == ""
    time.compute(AT_ONCE_SECONDS + 1)
    began = time.now
    assert kept.rest(say, never) == RESTING
    owed = 1 / SHARE - AT_ONCE_SECONDS - 1
    assert owed <= sum(naps) <= owed + 2 * LOOK_SECONDS
    # Whoever waits for an answer gives up on one that says nothing.
    assert {note for note, _ in said} == {RESTING}
    assert said[0][1] == began
    assert len(said) >= owed / (WORD_SECONDS + LOOK_SECONDS)

    time.now += 10
    assert kept.rest(say, never) == RESTING, "the answer goes on as slowly"
    kept.begin()
    assert kept.rest(say, never) == "", "another answer"


def test_a_stop_and_the_end_of_the_run_end_a_rest(kept, time, naps):
    time.compute(AT_ONCE_SECONDS * 10)
    assert kept.rest(lambda note: None, lambda: len(naps) == 3) == RESTING
    assert len(naps) == 3
    kept.keep(False)
    assert kept.rest(lambda note: None, never) == "", "there is nothing more to say"
    assert len(naps) == 3


def test_what_no_rest_came_after_is_counted_all_the_same(kept, time):
    time.compute(AT_ONCE_SECONDS + 1)
    kept.spend()
    kept.begin()
    assert kept.rest_seconds() > 0
