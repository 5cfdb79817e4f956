"""Files without a clear preference: the message says what they are, the hint is the way out."""

import json

import pytest
from files import assistant, loaded, user

from orpo_qlora.errors import DataError

Q, GOOD, BAD = "Why is the sky blue?", "Air scatters blue light.", "No idea."
IMAGE = {"bytes": "iVBORw0", "path": None}


CASES = {
    "pictures with labels": (
        {"caption": Q, "jpg_0": IMAGE, "jpg_1": IMAGE, "label_0": 1.0, "label_1": 0.0},
        "Images, audio or video are in “jpg_0”, “jpg_1”, in 2 of the first 2 rows",
        "Only text is trained",
    ),
    "an unordered list": (
        {"prompt": Q, "responses": [GOOD, BAD], "ranking": [2, 1]},
        "“responses” holds several responses, but nothing says which is better",
        "--map shape=ranking --map responses=responses --map scores=COLUMN",
    ),
    "no verdict": (
        {"prompt": Q, "response_a": GOOD, "response_b": BAD},
        "no column says which is better",
        "Add a column “winner”",
    ),
    "supervised": (
        {"messages": [user(Q), assistant(GOOD)]}, "supervised fine-tuning", "a second, worse",
    ),
    "one response": ({"prompt": Q, "completion": GOOD}, "one response per row", "a second, worse"),
    "rated by a number": (
        {"prompt": Q, "response": GOOD, "helpfulness": 4}, "rated by “helpfulness”", "“scores”",
    ),
    "rated by true and false": (
        {"prompt": Q, "response": GOOD, "is_safe": True}, "--map label=is_safe", "the method kto",
    ),
    "tokens": (
        {"input_ids_chosen": [1, 2], "input_ids_rejected": [1, 3]}, "numbers of tokens",
        "before it was tokenized",
    ),
    "a list of replies": (
        {"id": 1, "text": Q, "replies": [{"id": 2, "text": GOOD}]}, "message tree",
        "one row per pair",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_refusal_names_what_the_file_is_and_the_way_out(tmp_path, name):
    row, fact, hint = CASES[name]
    with pytest.raises(DataError) as caught:
        loaded(tmp_path, json.dumps([row, row]), name="pairs.json")
    assert fact in caught.value.message
    assert hint in caught.value.hint
    assert "pairs.json" in caught.value.where
    assert "first line" not in caught.value.hint


def test_pictures_as_addresses_of_data_are_refused(tmp_path):
    row = {"prompt": Q, "chosen": GOOD, "rejected": BAD, "scan": "data:image/png;base64,iVBORw0"}
    with pytest.raises(DataError, match=r"image, audio or video in 2 \(row 1: column “scan”\)"):
        loaded(tmp_path, json.dumps([row, row]), name="pairs.json")


@pytest.mark.parametrize("column", ["status", "tag", "rating"])
def test_labels_in_words_are_found_under_other_names(tmp_path, column):
    rows = [
        {"prompt": Q, "response": BAD, column: "Rejected"},
        {"prompt": Q, "response": GOOD, column: "chosen"},
    ]
    [pair] = loaded(tmp_path, json.dumps(rows), name="pairs.json").pairs
    assert (pair.prompt, pair.chosen, pair.rejected) == (Q, GOOD, BAD)


def test_an_answer_beside_a_negative_one_is_chosen(tmp_path):
    row = {"question": Q, "answer": GOOD, "negative_answer": BAD}
    [pair] = loaded(tmp_path, json.dumps([row]), name="pairs.json").pairs
    assert (pair.prompt, pair.chosen, pair.rejected) == (Q, GOOD, BAD)
