from dataclasses import replace

import pytest
from files import json_lines, texts_of

from orpo_qlora.config import TrainConfig
from orpo_qlora.data.columns import mapping_of
from orpo_qlora.data.files.choices import ReadChoices
from orpo_qlora.errors import InputError, NeedsColumns, NeedsEncoding
from orpo_qlora.jobs.token_counts import read_dataset
from orpo_qlora.ui.data import corrections, uploads

ROWS = ["hi,yes,no", "hi,yes,no", "why?,so,not so"]


@pytest.fixture
def dataset_id(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("prompt,chosen,rejected\n" + "\n".join(ROWS) + "\n", encoding="utf-8")
    return uploads.store_upload(path, "pairs.csv")


def rows(dataset_id):
    return [pair.row for pair in uploads.open_upload(dataset_id).pairs]


def test_a_fix_is_on_until_it_is_taken_back(dataset_id):
    assert rows(dataset_id) == [1, 2, 3]
    corrections.apply_choice(dataset_id, "fix:duplicate")
    corrections.apply_choice(dataset_id, "fix:duplicate")
    assert uploads.choices_of(dataset_id).fixes == ("duplicate",)
    assert rows(dataset_id) == [1, 3]
    assert uploads.open_upload(dataset_id).report.finding("duplicate").fixed
    corrections.apply_choice(dataset_id, "unfix:duplicate")
    assert rows(dataset_id) == [1, 2, 3]


def test_everything_can_be_forgotten(dataset_id):
    corrections.apply_choice(dataset_id, "fix:duplicate")
    corrections.choose_columns(
        dataset_id, ["prompt", "rejected", "chosen", "", ""], has_header=True
    )
    assert uploads.open_upload(dataset_id).pairs[0].chosen == "no"
    corrections.apply_choice(dataset_id, "forget")
    assert uploads.choices_of(dataset_id) == ReadChoices()
    assert uploads.open_upload(dataset_id).pairs[0].chosen == "yes"


@pytest.mark.parametrize(
    "then", [(), (("question", "response_j", "response_j"), True), (("", "", ""), False)]
)
def test_a_choice_of_columns_that_is_undone_is_not_remembered_either(tmp_path, then):
    """Whatever was chosen after it, the pairs are as at first, in this file and in the next."""
    path = tmp_path / "pairs.csv"
    path.write_text("question,response_j,response_k\nwhy?,so,not so\n", encoding="utf-8")
    dataset_id = uploads.store_upload(path, "pairs.csv")
    before = uploads.open_upload(dataset_id).report
    swapped = ["question", "response_k", "response_j", "", ""]
    corrections.choose_columns(dataset_id, swapped, has_header=True)
    assert uploads.open_upload(dataset_id).pairs[0].chosen == "not so"
    if then:
        corrections.choose_columns(dataset_id, [*then[0], "", ""], has_header=then[1])
        with pytest.raises(NeedsColumns):
            uploads.open_upload(dataset_id)
    corrections.apply_choice(dataset_id, "forget")
    assert uploads.open_upload(dataset_id).report == before
    assert uploads.open_upload(dataset_id).pairs[0].chosen == "so"
    path.write_text("question,response_j,response_k\nhow?,well,badly\n", encoding="utf-8")
    following = uploads.open_upload(uploads.store_upload(path, "next.csv"))
    assert following.pairs[0].chosen == "well"


def test_answers_to_a_file_that_cannot_be_read_are_undone_too(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_bytes("frage;gut;schlecht\nça va ?;très bien;bof\n".encode("cp1252"))
    dataset_id = uploads.store_upload(path, "pairs.csv")
    corrections.apply_choice(dataset_id, "forget")
    with pytest.raises(NeedsEncoding):
        uploads.open_upload(dataset_id)


def test_header_taken_for_a_row_gives_new_names_to_choose_from(dataset_id):
    corrections.choose_columns(
        dataset_id, ["prompt", "chosen", "rejected", "", ""], has_header=False
    )
    with pytest.raises(NeedsColumns) as question:
        uploads.open_upload(dataset_id)
    assert question.value.columns == ("Column 1", "Column 2", "Column 3")
    chosen = ["Column 1", "Column 2", "Column 3", "", ""]
    corrections.choose_columns(dataset_id, chosen, has_header=False)
    assert rows(dataset_id) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "values", [["prompt", "chosen", "chosen", "", ""], ["x", "y", "z", "", ""]]
)
def test_impossible_columns_are_asked_again_and_not_remembered(dataset_id, values):
    corrections.choose_columns(dataset_id, values, has_header=True)
    with pytest.raises(NeedsColumns):
        uploads.open_upload(dataset_id)
    corrections.apply_choice(dataset_id, "forget")
    assert rows(dataset_id) == [1, 2, 3]


@pytest.mark.parametrize(
    "choice", ["", "drop:everything", "fixes", "fix:<b>", "encoding:zip", "encoding:"]
)
def test_only_buttons_that_exist_are_obeyed(dataset_id, choice):
    with pytest.raises(InputError):
        corrections.apply_choice(dataset_id, choice)
    assert uploads.choices_of(dataset_id) == ReadChoices()


RANKED = json_lines(
    [("q?", ["mid", "best", "worst"], [2, 9, 1]), ("r?", ["good", "bad"], [1, 0])],
    ("prompt", "responses", "scores"),
)
PAIRS_FROM_RANKING = {
    "best_worst": [("q?", "best", "worst"), ("r?", "good", "bad")],
    "best_rest": [("q?", "best", "mid"), ("q?", "best", "worst"), ("r?", "good", "bad")],
    "all": [
        ("q?", "best", "mid"),
        ("q?", "best", "worst"),
        ("q?", "mid", "worst"),
        ("r?", "good", "bad"),
    ],
}


@pytest.fixture
def ranked_id(tmp_path):
    path = tmp_path / "ranked.jsonl"
    path.write_text(RANKED)
    return uploads.store_upload(path, "ranked.jsonl")


@pytest.mark.parametrize("setting", PAIRS_FROM_RANKING)
def test_pairs_from_a_ranking_are_stored_with_the_file_and_undone(ranked_id, setting):
    corrections.choose_ranking(ranked_id, setting)
    assert uploads.choices_of(ranked_id) == ReadChoices(pairs_from_ranking=setting)
    assert texts_of(uploads.open_upload(ranked_id)) == PAIRS_FROM_RANKING[setting]
    request = uploads.tokenize_request(ranked_id, TrainConfig(), ())
    assert texts_of(read_dataset(request)) == PAIRS_FROM_RANKING[setting]
    corrections.apply_choice(ranked_id, "forget")
    assert texts_of(uploads.open_upload(ranked_id)) == PAIRS_FROM_RANKING["best_worst"]


@pytest.mark.parametrize("setting", ["", "most", None, ["all"]])
def test_only_settings_of_a_ranking_that_exist_are_stored(ranked_id, setting):
    with pytest.raises(InputError, match="is not a way to pair ranked responses"):
        corrections.choose_ranking(ranked_id, setting)
    assert uploads.choices_of(ranked_id) == ReadChoices()


WHOLE = json_lines(
    [("Why? Air.", "Why? No idea."), ("How? So.", "How? Hm.")], ("chosen", "rejected")
)


def test_a_common_prefix_is_confirmed_and_undone(tmp_path):
    path = tmp_path / "whole.jsonl"
    path.write_text(WHOLE)
    dataset_id = uploads.store_upload(path, "whole.jsonl")
    with pytest.raises(NeedsColumns) as caught:
        uploads.open_upload(dataset_id)
    assert caught.value.proposal.prompt == "Why?"
    corrections.apply_choice(dataset_id, "prefix:yes")
    assert texts_of(uploads.open_upload(dataset_id)) == [
        ("Why?", "Air.", "No idea."), ("How?", "So.", "Hm."),
    ]  # fmt: skip
    corrections.apply_choice(dataset_id, "forget")
    with pytest.raises(NeedsColumns):
        uploads.open_upload(dataset_id)


VERDICTS = json_lines(
    [("q?", "one", "two", 0), ("r?", "three", "four", 1), ("s?", "five", "six", 2)],
    ("prompt", "response_a", "response_b", "winner"),
)


def values_of(mapping):
    return [getattr(mapping, field) for field in corrections.FIELDS]


def test_an_unclear_verdict_is_a_question_that_its_values_answer(tmp_path):
    path = tmp_path / "verdicts.jsonl"
    path.write_text(VERDICTS)
    dataset_id = uploads.store_upload(path, "verdicts.jsonl")
    with pytest.raises(NeedsColumns) as caught:
        uploads.open_upload(dataset_id)
    mapping = mapping_of(caught.value.found)
    assert dict(mapping.parts()) == {
        "prompt": "prompt", "first": "response_a", "second": "response_b", "verdict": "winner",
    }  # fmt: skip
    answered = replace(mapping, first_values="0", second_values="1")
    corrections.choose_columns(dataset_id, values_of(answered), has_header=True)
    assert texts_of(uploads.open_upload(dataset_id)) == [
        ("q?", "one", "two"), ("r?", "four", "three"),
    ]  # fmt: skip


def test_a_shape_that_is_picked_is_proposed_with_its_columns(ranked_id):
    mapping = corrections.proposed_mapping(ranked_id, "ranking")
    assert dict(mapping.parts()) == {
        "prompt": "prompt", "responses": "responses", "scores": "scores",
    }  # fmt: skip
    corrections.choose_columns(
        ranked_id, values_of(replace(mapping, is_reversed=True)), has_header=True
    )
    assert texts_of(uploads.open_upload(ranked_id))[1] == ("r?", "bad", "good")
    assert corrections.proposed_mapping(ranked_id, "labelled").shape == "labelled"
    with pytest.raises(InputError, match="no shape “tree”"):
        corrections.choose_columns(ranked_id, ["", "", "", "", "", "tree"], has_header=True)


def test_labelled_rows_are_read_as_the_method_or_the_user_says(tmp_path):
    rows = [("q1?", "good", True), ("q1?", "bad", False), ("q2?", "alone", True)]
    path = tmp_path / "labelled.jsonl"
    path.write_text(json_lines(rows, ("prompt", "completion", "label")))
    dataset_id = uploads.store_upload(path, path.name)
    orpo, kto = TrainConfig(), TrainConfig(method="kto")

    def counts():
        return [len(uploads.open_for(dataset_id, config).pairs) for config in (orpo, kto)]

    assert counts() == [1, 3]
    corrections.choose_labelled(dataset_id, "single")
    assert counts() == [3, 3]
    assert uploads.open_upload(dataset_id).report.singles == 3
    corrections.choose_labelled(dataset_id, "pairs")
    assert counts() == [1, 1]
    with pytest.raises(InputError, match="not a way to read labelled"):
        corrections.choose_labelled(dataset_id, "both")
