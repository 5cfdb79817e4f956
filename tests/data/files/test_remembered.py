"""Columns chosen once are known for the next file of the same columns."""

import pytest

from orpo_qlora import storage
from orpo_qlora.data.columns import ColumnMapping
from orpo_qlora.data.files import remembered
from orpo_qlora.data.files.choices import ReadChoices
from orpo_qlora.data.files.remembered import (
    forget_columns,
    recall_mapping,
    recall_ranking,
    remember_mapping,
    remember_ranking,
)
from orpo_qlora.data.pairs import load_preferences, preview
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
    forget_columns(["b", "a"])
    forget_columns(["never", "chosen"])
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


RANKED = '{"prompt": "q?", "responses": ["mid", "best", "worst"], "scores": [2, 9, 1]}\n'
BEST_WORST = [("q?", "best", "worst")]
BEST_REST = [("q?", "best", "mid"), ("q?", "best", "worst")]


@pytest.fixture
def ranked(tmp_path):
    path = tmp_path / "ranked.jsonl"
    path.write_text(RANKED)
    return path


def pairs_of(path, setting=None):
    dataset = load_preferences(path, choices=ReadChoices(pairs_from_ranking=setting))
    return [(pair.prompt, pair.chosen, pair.rejected) for pair in dataset.pairs]


def test_pairs_from_a_ranking_are_chosen_once(ranked):
    assert pairs_of(ranked) == BEST_WORST
    assert pairs_of(ranked, "best_rest") == BEST_REST
    assert pairs_of(ranked) == BEST_REST
    report = load_preferences(ranked).report
    assert report.is_ranking_remembered
    assert report.choices.pairs_from_ranking == "best_rest"
    assert any("“best_rest” is used, as chosen before for such a file." in one
               for one in report.sentences())  # fmt: skip
    assert len(preview(ranked)[1]) == 2
    assert pairs_of(ranked, "best_worst") == BEST_WORST
    assert pairs_of(ranked) == BEST_WORST


def test_a_ranking_choice_is_for_files_with_the_same_columns_that_are_ranked(ranked, file):
    load_preferences(file, choices=ReadChoices(mapping=MAPPING, pairs_from_ranking="all"))
    assert recall_ranking(["frage", "gut", "schlecht"]) is None
    pairs_of(ranked, "all")
    assert recall_ranking(["scores", "prompt", "responses"]) == "all"
    ranked.write_text(RANKED.replace("scores", "ratings"))
    assert pairs_of(ranked) == BEST_WORST


def test_forgetting_the_columns_forgets_the_ranking_too(ranked):
    remember_ranking(["prompt", "responses", "scores"], "all")
    forget_columns(["prompt", "responses", "scores"])
    assert pairs_of(ranked) == BEST_WORST


def test_columns_chosen_against_a_recognised_structure_are_remembered(tmp_path):
    path = tmp_path / "ab.jsonl"
    path.write_text('{"prompt": "q?", "response_a": "a", "response_b": "b", "winner": "model_b"}\n')
    assert pairs_of(path) == [("q?", "b", "a")]
    mapping = ColumnMapping("prompt", "response_a", "response_b")
    load_preferences(path, choices=ReadChoices(mapping=mapping))
    assert pairs_of(path) == [("q?", "a", "b")]
    assert load_preferences(path).report.is_remembered
