"""Columns chosen once are known for the next file of the same columns."""

import pytest

from orpo_qlora import storage
from orpo_qlora.data import remembered
from orpo_qlora.data.choices import ReadChoices
from orpo_qlora.data.columns import ColumnMapping
from orpo_qlora.data.pairs import load_preferences, preview
from orpo_qlora.data.remembered import forget_mapping, recall_mapping, remember_mapping
from orpo_qlora.errors import NeedsColumns

MAPPING = ColumnMapping("frage", "gut", "schlecht")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("frage,gut,schlecht\na,b,c\n")
    return path


def test_choice_is_asked_for_once(file):
    with pytest.raises(NeedsColumns) as caught:
        load_preferences(file)
    assert caught.value.columns == ("frage", "gut", "schlecht")
    assert not load_preferences(file, choices=ReadChoices(mapping=MAPPING)).report.is_remembered
    report = load_preferences(file).report
    assert report.is_remembered
    assert report.mapping == MAPPING


def test_trying_is_not_choosing(file):
    preview(file, choices=ReadChoices(mapping=MAPPING))
    assert recall_mapping(["frage", "gut", "schlecht"]) is None


def test_correction_of_a_guess_is_remembered_and_right_names_are_not_overruled(file):
    file.write_text("question,accepted,declined\na,b,c\n")
    swapped = ColumnMapping("question", "declined", "accepted")
    load_preferences(file, choices=ReadChoices(mapping=swapped))
    assert load_preferences(file).pairs[0].chosen == "c"
    file.write_text("prompt,chosen,rejected\na,b,c\n")
    load_preferences(
        file, choices=ReadChoices(mapping=ColumnMapping("prompt", "rejected", "chosen"))
    )
    assert load_preferences(file).pairs[0].chosen == "b"


def test_columns_in_another_order_are_the_same_and_others_are_not():
    remember_mapping(["a", "b", "c"], MAPPING)
    assert recall_mapping(["c", "a", "b"]) == MAPPING
    assert recall_mapping(["a", "b"]) is None


def test_what_is_taken_back_is_known_no_more_and_the_rest_is():
    remember_mapping(["a", "b"], MAPPING)
    remember_mapping(["c", "d"], MAPPING)
    forget_mapping(["b", "a"])
    forget_mapping(["never", "chosen"])
    assert recall_mapping(["a", "b"]) is None
    assert recall_mapping(["c", "d"]) == MAPPING


def test_what_was_chosen_longest_ago_is_forgotten(monkeypatch):
    monkeypatch.setattr(remembered, "KEPT", 2)
    for name in "abca":
        remember_mapping([name], MAPPING)
    assert [bool(recall_mapping([name])) for name in "abc"] == [True, False, True]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"a": 1}'])
def test_damaged_memory_is_no_memory(damage):
    remember_mapping(["a"], MAPPING)
    (storage.home() / "datasets" / "columns.json").write_text(damage)
    assert recall_mapping(["a"]) is None
    remember_mapping(["a"], MAPPING)
    assert recall_mapping(["a"]) == MAPPING
