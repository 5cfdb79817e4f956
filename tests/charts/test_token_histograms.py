import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orpo_qlora.charts.token_histograms import (
    BARS,
    TAIL,
    bin_name,
    choose_bins,
    draw_histogram,
    histograms_of,
)
from orpo_qlora.jobs.token_counts import TokenLengths
from orpo_qlora.jobs.token_report import report_lengths

COUNTS = TokenLengths(
    rows=(1, 2, 4, 5),
    prompt=(10, 12, 14, 10),
    chosen=(5, 6, 9, 5),
    rejected=(7, 6, 8, 90),
    same_start=(0, 0, 1, 0),
)


def drawn(max_length=30):
    report = report_lengths(COUNTS, "some/model", max_length, "drop")
    return {h.name: draw_histogram(h) for h in histograms_of(COUNTS, report)}


@given(
    st.lists(st.integers(-300, 5000), min_size=1, max_size=300), st.none() | st.integers(16, 4000)
)
def test_every_value_falls_into_one_bar(values, limit):
    bins = choose_bins(values, limit)
    assert sum(bins.tally(values)) == len(values)
    assert bins.low <= min(values)
    assert bins.is_open or bins.high > max(values)
    assert bins.count <= 2 * TAIL * BARS
    for index, count in enumerate(bins.tally(values)[:-1]):
        low = bins.low + index * bins.width
        assert count == sum(low <= value < low + bins.width for value in values)


def test_a_few_far_values_share_the_last_bar():
    bins = choose_bins([*range(100)] * 5 + [90_000], None)
    assert bins.is_open
    assert bins.high < 200
    assert bin_name(bins, bins.count - 1).endswith("or more")


def test_bars_name_their_tokens_and_pairs():
    assert "<title>prompt, 10 tokens: 2</title>" in drawn()["prompt"]
    chart = re.sub(r"(-8\d) to .*?:", r"-82 tokens:", drawn()["difference"])
    assert "<title>difference, -82 tokens" in chart


def test_facts_are_in_the_label_too():
    spoken = re.search(r'aria-label="(.*?)"', drawn()["whole"])[1]
    assert spoken == "Prompt and longer response, tokens: Median 18, 95 % up to 100, longest 100."


@pytest.mark.parametrize(("max_length", "is_inside"), [(20, True), (5000, False)])
def test_line_of_max_length_is_in_its_place(max_length, is_inside):
    whole = drawn(max_length)["whole"]
    assert ('class="limit"' in whole) is is_inside
    assert f"max_length {max_length:,}" in whole
    assert 'class="limit"' not in drawn(max_length)["difference"]


def test_report_names_fate_and_difference():
    report = report_lengths(COUNTS, "some/model", 30, "drop")
    assert report.policy_sentence() == (
        "Longer than max_length = 30 tokens: 1 pair (25.0%) will be left out: row 5."
    )
    assert "longer answer in 25% of the pairs, rejected in 50%" in report.difference_sentence()
    assert "+0 tokens" not in report.difference_sentence()
    assert "Every pair fits" in report_lengths(COUNTS, "m", 100, "drop").policy_sentence()
    none_left = report_lengths(COUNTS, "m", 16, "drop").policy_sentence()
    assert "Nothing would be left" in none_left
    cut = report_lengths(COUNTS, "m", 25, "cut_answers").policy_sentence()
    assert "1 pair (25.0%) will be cut: row 5" in cut
