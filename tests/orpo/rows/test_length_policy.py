"""What the page says about over-long pairs is what the tokens of a run will go through."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import make_tiny_tokenizer

from orpo_qlora.data.pairs import PreferencePair
from orpo_qlora.errors import DataError
from orpo_qlora.orpo.rows.length_policy import PairLengths, fit
from orpo_qlora.orpo.rows.tokens import tokenize_pairs

SHORT = PreferencePair("a", "b", "c", 999)
WORDS = st.lists(st.sampled_from(["fox", "hello", "東京", "λ"]), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tiny_tokenizer()


def lengths_of(pair):
    same = 0
    while same < min(len(pair.chosen), len(pair.rejected)):
        if pair.chosen[same] != pair.rejected[same]:
            break
        same += 1
    return PairLengths(len(pair.prompt), len(pair.chosen), len(pair.rejected), same)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    prompt=WORDS,
    answers=st.tuples(WORDS, WORDS, WORDS).filter(lambda three: three[1] != three[2]),
    max_length=st.integers(16, 90),
    over_length=st.sampled_from(["drop", "cut_prompt", "cut_answers"]),
)
def test_fit_predicts_what_tokenising_does(tokenizer, prompt, answers, max_length, over_length):
    start, *ends = (" ".join(words) for words in answers)
    pair = PreferencePair(" ".join(prompt), f"{start} {ends[0]}", f"{start} {ends[1]}", 1)
    whole = tokenize_pairs(tokenizer, [pair], 10**9, "drop").pairs[0]
    foretold = fit(lengths_of(whole), max_length, over_length)
    try:
        done = tokenize_pairs(tokenizer, [pair, SHORT], max_length, over_length)
    except DataError:
        assert foretold is None
        return
    assert (1 in done.dropped_rows) == (foretold is None)
    if foretold is not None:
        kept = done.pairs[0]
        assert foretold.prompt == len(kept.prompt)
        assert foretold.chosen == len(kept.chosen)
        assert foretold.rejected == len(kept.rejected)
        assert (1 in done.cut_rows) == (whole.longest > max_length)
        assert kept.prompt == whole.prompt[len(whole.prompt) - foretold.prompt :]
        assert kept.chosen == whole.chosen[: foretold.chosen]


def test_answers_that_differ_only_after_the_cut_are_left_out():
    pair = PairLengths(prompt=10, chosen=8, rejected=9, same_start=5)
    assert fit(pair, 15, "cut_answers") is None
    assert fit(pair, 16, "cut_answers") is not None
