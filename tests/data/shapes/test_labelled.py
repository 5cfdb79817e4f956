"""Labelled single responses become pairs where a prompt has both labels."""

import pytest
from files import assistant, json_lines, loaded, separated, texts_of, user

from orpo_qlora.errors import DataError

HEADER = ("prompt", "completion", "label")
ROWS = [("q1?", "good", True), ("q2?", "bad", False), ("q1?", "bad", False), ("q2?", "good", True),
        ("q3?", "alone", True), ("q1?", "extra", True)]  # fmt: skip
PAIRS = [("q1?", "good", "bad"), ("q2?", "good", "bad")]


@pytest.mark.parametrize("write", [json_lines, separated])
@pytest.mark.parametrize(
    "words", [(True, False), (1, 0), (1, -1), ("good", "bad"), ("True", "False")]
)
def test_prompts_with_both_labels_give_pairs(tmp_path, write, words):
    rows = [(prompt, answer, words[0] if label else words[1]) for prompt, answer, label in ROWS]
    data = loaded(tmp_path, write(rows, HEADER))
    assert texts_of(data) == PAIRS
    assert [(drop.reason, drop.rows) for drop in data.report.drops] == [("unpaired-label", (5, 6))]
    assert (data.report.rows_read, data.report.candidates) == (6, 4)
    assert "method kto here trains on pairs" in " ".join(data.report.sentences())


def test_messages_with_a_label(tmp_path):
    rows = [([user("q1?"), assistant("good")], True), ([user("q1?"), assistant("bad")], False)]
    data = loaded(tmp_path, json_lines(rows, ("messages", "label")))
    assert texts_of(data) == PAIRS[:1]


def test_file_without_both_labels_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(DataError, match="opposite label in 1") as caught:
        loaded(tmp_path, json_lines(ROWS[:1], HEADER))
    assert "kto here trains on pairs" in caught.value.hint
