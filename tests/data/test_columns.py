"""Three columns are found by name and nothing is guessed."""

import pytest

from orpo_qlora.data.columns import ColumnMapping, find_mapping, ignored_columns
from orpo_qlora.errors import DataError


@pytest.mark.parametrize(
    ("columns", "mapping"),
    [
        (["prompt", "chosen", "rejected"], ("prompt", "chosen", "rejected")),
        (["rejected", "id", "chosen", "prompt"], ("prompt", "chosen", "rejected")),
        ([" Prompt ", "CHOSEN", "rejected\t"], (" Prompt ", "CHOSEN", "rejected\t")),
        (
            ["\ufeffprompt", "\ufeff chosen", "rejected"],
            ("\ufeffprompt", "\ufeff chosen", "rejected"),
        ),
    ],
)
def test_columns_are_found_in_any_order_case_and_spacing(columns, mapping):
    assert find_mapping(columns) == ColumnMapping(*mapping)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            ["prompt", "chosen", "answer"],
            "p.csv has no column “rejected”; its columns are “prompt”, “chosen”, “answer”.",
        ),
        (
            ["Prompt", "good", "bad"],
            "p.csv has no columns “chosen”, “rejected”; its columns are “Prompt”, “good”, “bad”.",
        ),
        (
            ["Why?", "Because.", "No."],
            "The first line of p.csv does not name the columns “prompt”, “chosen”, “rejected”; "
            "it reads “Why?”, “Because.”, “No.”.",
        ),
        (
            ["prompt", "Prompt ", "chosen", "rejected"],
            "p.csv has 2 columns that read “prompt”: “prompt”, “Prompt”.",
        ),
    ],
)
def test_refusal_names_needed_and_found_columns(columns, message):
    with pytest.raises(DataError) as caught:
        find_mapping(columns, "p.csv")
    assert caught.value.message == message
    assert caught.value.hint
    assert caught.value.where == "p.csv, header"


@pytest.mark.parametrize("synonyms", [["question", "chosen", "rejected"], ["prompts", "a", "b"]])
def test_synonyms_are_not_taken_silently(synonyms):
    with pytest.raises(DataError):
        find_mapping(synonyms)


def test_very_many_and_very_long_names_stay_readable():
    with pytest.raises(DataError) as caught:
        find_mapping(["x" * 1000] * 500, "p.csv")
    assert len(caught.value.message) < 700
    assert "and 490 others" in caught.value.message


def test_positions_follow_the_file_order():
    columns = ("rejected", "id", " Prompt", "chosen")
    assert find_mapping(columns).positions_in(columns) == (2, 3, 0)


def test_unused_columns_are_listed_without_nameless_ones():
    columns = ["id", "prompt", "chosen", "", "rejected", "source", " "]
    assert ignored_columns(columns, find_mapping(columns)) == ("id", "source")
