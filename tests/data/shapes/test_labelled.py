"""Labelled single responses: each on its own, or pairs where a prompt has both labels."""

from dataclasses import asdict

import pytest
from files import assistant, json_lines, loaded, separated, texts_of, user

from orpo_qlora.data.export import write_clean
from orpo_qlora.data.files.choices import ReadChoices
from orpo_qlora.data.pairs import load_preferences, read_pairs, write_pairs
from orpo_qlora.errors import DataError

HEADER = ("prompt", "completion", "label")
ROWS = [("q1?", "good", True), ("q2?", "bad", False), ("q1?", "bad", False), ("q2?", "good", True),
        ("q3?", "alone", True), ("q1?", "extra", True)]  # fmt: skip
PAIRS = [("q1?", "good", "bad"), ("q2?", "good", "bad")]
SINGLE = ReadChoices(labelled="single")


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
    text = " ".join(data.report.sentences())
    assert "The method kto uses 6 responses instead, paired or not" in text
    assert data.report.labelled_counts == {"pairs": 2, "single": 6}


def test_each_response_can_be_used_on_its_own(tmp_path):
    data = loaded(tmp_path, json_lines(ROWS, HEADER), choices=SINGLE)
    found = [(p.row, p.prompt, p.chosen, p.rejected, p.single) for p in data.pairs]
    assert found == [
        (row, prompt, answer if label else "", "" if label else answer,
         "chosen" if label else "rejected")
        for row, (prompt, answer, label) in enumerate(ROWS, start=1)
    ]  # fmt: skip
    assert data.report.drops == ()
    assert data.report.sentences()[0] == "6 rows read, 6 responses (4 chosen, 2 rejected) usable."


def test_an_empty_single_response_is_dropped(tmp_path):
    rows = [*ROWS, ("q4?", "  ", False), ("q5?", "", True)]
    data = loaded(tmp_path, json_lines(rows, HEADER), choices=SINGLE)
    dropped = {drop.reason: drop.rows for drop in data.report.drops}
    assert dropped == {"empty-chosen": (8,), "empty-rejected": (7,)}


def test_a_response_that_has_both_labels_is_a_contradiction(tmp_path):
    rows = [*ROWS, ("q3?", "alone", False), ("q1?", "extra", True)]
    data = loaded(tmp_path, json_lines(rows, HEADER), choices=SINGLE)
    assert data.report.finding("contradiction").rows == (7,)
    assert data.report.finding("duplicate").rows == (8,)


def test_messages_with_a_label(tmp_path):
    rows = [([user("q1?"), assistant("good")], True), ([user("q1?"), assistant("bad")], False)]
    data = loaded(tmp_path, json_lines(rows, ("messages", "label")))
    assert texts_of(data) == PAIRS[:1]


def test_responses_that_cannot_be_paired_are_read_on_their_own(tmp_path):
    data = loaded(tmp_path, json_lines([ROWS[0], ROWS[1], ROWS[4]], HEADER))
    assert [pair.single for pair in data.pairs] == ["chosen", "rejected", "chosen"]
    assert data.report.choices.labelled == "single"
    assert "which only the method kto can do. None can be paired." in data.report.notes[0]


def test_responses_that_cannot_be_paired_are_refused_as_pairs(tmp_path):
    choices = ReadChoices(labelled="pairs")
    with pytest.raises(DataError, match="opposite label in 1") as caught:
        loaded(tmp_path, json_lines(ROWS[:1], HEADER), choices=choices)
    assert "The method kto trains on such responses" in caught.value.hint


def test_single_responses_survive_the_run_folder(tmp_path):
    data = loaded(tmp_path, json_lines(ROWS, HEADER), choices=SINGLE)
    write_pairs(tmp_path / "train.jsonl", data.pairs)
    assert read_pairs(tmp_path / "train.jsonl") == tuple(data.pairs)


@pytest.mark.parametrize("name", ["clean.jsonl", "clean.csv"])
@pytest.mark.parametrize("with_system", [False, True])
def test_exported_single_responses_read_back_the_same(tmp_path, name, with_system):
    rows = [(*row, "Be brief." if with_system else "") for row in ROWS]
    data = loaded(tmp_path, json_lines(rows, (*HEADER, "system")), choices=SINGLE)
    write_clean(tmp_path / name, data.pairs)
    again = load_preferences(tmp_path / name, choices=SINGLE)
    assert list(map(asdict, again.pairs)) == list(map(asdict, data.pairs))
