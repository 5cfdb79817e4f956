"""Columns are found by name; a synonym is a guess that is said to be one."""

import pytest

from orpo_qlora.data.columns import ColumnMapping, check_mapping, guess_mapping, ignored_columns
from orpo_qlora.errors import NeedsColumns


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
    assert guess_mapping(columns) == ColumnMapping(*mapping)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            ["prompt", "chosen", "answer"],
            "p.csv has no column “rejected”; its columns are “prompt”, “chosen”, “answer”.",
        ),
        (
            ["Prompt", "fine", "poor"],
            "p.csv has no columns “chosen”, “rejected”; its columns are “Prompt”, “fine”, “poor”.",
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
    with pytest.raises(NeedsColumns) as caught:
        guess_mapping(columns, "p.csv")
    assert caught.value.message == message
    assert caught.value.hint
    assert caught.value.where == "p.csv, header"


@pytest.mark.parametrize(
    ("columns", "mapping"),
    [
        (
            ["question", "chosen", "rejected"],
            ColumnMapping("question", "chosen", "rejected", guessed=("prompt",)),
        ),
        (
            ["Query", "response_j", "response_k"],
            ColumnMapping(
                "Query", "response_j", "response_k", guessed=("prompt", "chosen", "rejected")
            ),
        ),
        (
            ["system", "instruction", "input", "chosen", "rejected"],
            ColumnMapping(
                "instruction", "chosen", "rejected", "system", "input", ("prompt", "context")
            ),
        ),
        (["prompt", "input", "chosen", "rejected"], ColumnMapping("prompt", "chosen", "rejected")),
        (["chosen", "rejected"], ColumnMapping("", "chosen", "rejected")),
    ],
)
def test_synonyms_are_accepted_and_reported_as_guesses(columns, mapping):
    assert guess_mapping(columns) == mapping


@pytest.mark.parametrize(
    ("mapping", "fact"),
    [
        (ColumnMapping("a", "b", "x"), "p.csv has no column “x”; its columns are “a”, “b”, “c”."),
        (ColumnMapping("a", "b", "b"), "p.csv: “b” cannot be two parts of a preference."),
        (ColumnMapping("a", "b", ""), "p.csv: both answers need a column."),
    ],
)
def test_mapping_of_the_user_must_fit_the_file(mapping, fact):
    with pytest.raises(NeedsColumns) as caught:
        check_mapping(mapping, ["a", "b", "c"], "p.csv")
    assert caught.value.message == fact
    assert caught.value.columns == ("a", "b", "c")


def test_very_many_and_very_long_names_stay_readable():
    with pytest.raises(NeedsColumns) as caught:
        guess_mapping(["x" * 1000] * 500, "p.csv")
    assert len(caught.value.message) < 700
    assert "and 490 others" in caught.value.message


def test_unused_columns_are_listed_without_nameless_ones():
    columns = ["id", "prompt", "chosen", "", "rejected", "source", " "]
    used = [column for _, column in guess_mapping(columns).parts()]
    assert ignored_columns(columns, used) == ("id", "source")
