"""Two columns of whole texts without markers: the common prefix is proposed, then confirmed."""

import pytest
from files import HEADER, json_lines, loaded, parquet, separated, texts_of

from orpo_qlora.data.files.choices import ReadChoices
from orpo_qlora.data.shapes.common_prefix import prefix_end
from orpo_qlora.errors import NeedsColumns

CONFIRMED = ReadChoices(prompt_from_common_prefix=True)
COLUMNS = HEADER[1:]
ROWS = [
    ("Why is the sky blue? Air scatters it.", "Why is the sky blue? No idea."),
    ("How far is the moon?\nAbout 384,000 km.", "How far is the moon?\nAbout a mile."),
]
PAIRS = [
    ("Why is the sky blue?", "Air scatters it.", "No idea."),
    ("How far is the moon?", "About 384,000 km.", "About a mile."),
]


@pytest.mark.parametrize("write", [json_lines, separated, parquet])
def test_the_prefix_is_proposed_with_the_first_row_and_never_assumed(tmp_path, write):
    with pytest.raises(NeedsColumns) as caught:
        loaded(tmp_path, write(ROWS, COLUMNS))
    error = caught.value
    assert "“chosen” and “rejected” begin with the same text" in error.message
    assert "row 1" in error.hint
    assert "--prompt-from-common-prefix" in error.hint
    assert (error.proposal.prompt, error.proposal.chosen, error.proposal.rejected) == PAIRS[0]


@pytest.mark.parametrize("write", [json_lines, separated, parquet])
def test_a_confirmed_prefix_is_the_prompt(tmp_path, write):
    data = loaded(tmp_path, write(ROWS, COLUMNS), CONFIRMED)
    assert texts_of(data) == PAIRS
    assert data.report.shape == "common prefix"
    assert "both begin with" in " ".join(data.report.sentences())


def test_rows_without_a_common_prefix_are_dropped_and_counted(tmp_path):
    rows = [*ROWS, ("Because.", "No idea."), ("Why not? ", "Why not? Because."), ("", "Why? No.")]
    data = loaded(tmp_path, json_lines(rows, COLUMNS), CONFIRMED)
    assert texts_of(data) == PAIRS
    assert [(drop.reason, drop.rows) for drop in data.report.drops] == [
        ("no-common-prefix", (3, 4)), ("empty-chosen", (5,)),
    ]  # fmt: skip


def test_texts_without_a_common_prefix_have_no_proposal(tmp_path):
    with pytest.raises(NeedsColumns, match="no key “prompt”") as caught:
        loaded(tmp_path, json_lines([("Because.", "No idea.")] * 3, COLUMNS))
    assert caught.value.proposal is None


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("Why? Sure. One.", "Why? Sure. Two.", "Why? Sure."),
        ("Why? Yes, it is.", "Why? Yes, it was.", "Why?"),
        ("Say “no.” One", "Say “no.” Two", "Say “no.”"),
        ("为什么?因为。天蓝。", "为什么?因为。不知道。", "为什么?因为。"),
        ("Pi is 3.14 One", "Pi is 3.15 Two", ""),
        ("Q. Answer: Sure. A", "Q. Answer: Sure. B", "Q. Answer: Sure."),
        ("Why?\nAnswer: Sure. A", "Why?\nAnswer: Sure. B", "Why?"),
        ("Why?\n\n### Response:\nOne", "Why?\n\n### Response:\nTwo", "Why?"),
        ("Yes. And more.", "Yes.", ""),
        ("no stop here one", "no stop here two", ""),
        ("", "", ""),
    ],
)
def test_the_prompt_ends_at_a_sentence_line_or_label(tmp_path, chosen, rejected, prompt):
    end = prefix_end(chosen, rejected)
    assert bool(end) == bool(prompt)
    if prompt:
        data = loaded(tmp_path, json_lines([(chosen, rejected)], COLUMNS), CONFIRMED)
        assert [pair.prompt for pair in data.pairs] == [prompt]


def test_a_column_for_the_prompt_needs_no_confirmation(tmp_path):
    data = loaded(tmp_path, json_lines([("Why?", "Why? A.", "Why? B.")]), CONFIRMED)
    assert texts_of(data) == [("Why?", "Why? A.", "Why? B.")]
