"""A recognised shape can be corrected: another shape, other columns, which response is better."""

import json

import pytest
from files import assistant, json_lines, loaded, separated, texts_of, user

from orpo_qlora.data.columns import ColumnMapping, mapping_of
from orpo_qlora.data.files.choices import ReadChoices
from orpo_qlora.data.mapping import complete_mapping
from orpo_qlora.data.pairs import load_preferences
from orpo_qlora.errors import InputError, NeedsColumns

TWO = [("q1?", "one", "two", 1), ("q2?", "three", "four", 0), ("q3?", "five", "six", 2)]
COLUMNS = ("prompt", "response_a", "response_b", "winner")


def corrected(tmp_path, content, **values):
    path = tmp_path / "data"
    path.write_text(content, encoding="utf-8")
    mapping = complete_mapping(path, ReadChoices(), values)
    return load_preferences(path, choices=ReadChoices(mapping=mapping))


@pytest.mark.parametrize("write", [json_lines, separated])
def test_the_user_says_which_values_choose_which_response(tmp_path, write):
    content = write(TWO, COLUMNS)
    with pytest.raises(NeedsColumns, match="holds 0, 1, 2"):
        loaded(tmp_path, content)
    data = corrected(tmp_path, content, first_values="1", second_values="2")
    assert texts_of(data) == [("q1?", "one", "two"), ("q3?", "six", "five")]
    assert [(drop.reason, drop.rows) for drop in data.report.drops] == [("unclear-verdict", (2,))]
    data = corrected(tmp_path, content, first_values="0,2", second_values="1")
    assert texts_of(data) == [
        ("q1?", "two", "one"), ("q2?", "three", "four"), ("q3?", "five", "six"),
    ]  # fmt: skip


def test_values_may_be_compared(tmp_path):
    rows = [("q1?", "one", "two", 0.9), ("q2?", "three", "four", 0.1), ("q3?", "x", "y", 0.5)]
    data = corrected(
        tmp_path, json_lines(rows, ("prompt", "response_a", "response_b", "p")),
        verdict="p", first_values=">0.5", second_values="<0.5",
    )  # fmt: skip
    assert texts_of(data) == [("q1?", "one", "two"), ("q2?", "four", "three")]


def test_better_and_worse_can_be_swapped(tmp_path):
    rows = [("q1?", "one", "two", "a"), ("q2?", "three", "four", "tie")]
    content = json_lines(rows, COLUMNS)
    assert texts_of(corrected(tmp_path, content, shape="verdict")) == [("q1?", "one", "two")]
    data = corrected(tmp_path, content, is_reversed="yes")
    assert texts_of(data) == [("q1?", "two", "one")]
    assert "the other way round" in data.report.sentences()[2]


def test_a_ranking_with_other_columns_and_reversed(tmp_path):
    rows = [("q?", ["mid", "best", "worst"], [3, 1, 9], [2, 9, 1])]
    content = json_lines(rows, ("prompt", "texts", "places", "marks"))
    data = corrected(tmp_path, content, shape="ranking", responses="texts", scores="marks")
    assert texts_of(data) == [("q?", "best", "worst")]
    data = corrected(
        tmp_path, content, shape="ranking", responses="texts", scores="places", is_reversed="yes"
    )
    assert texts_of(data) == [("q?", "best", "worst")]
    assert data.report.ranking_pairs == {"best_worst": 1, "best_rest": 2, "all": 3}


def test_labels_can_be_reversed(tmp_path):
    rows = [("q?", "bad", 1), ("q?", "good", 0)]
    content = json_lines(rows, ("prompt", "response", "is_unsafe"))
    data = corrected(
        tmp_path, content, shape="labelled", responses="response", label="is_unsafe",
        is_reversed="yes",
    )  # fmt: skip
    assert texts_of(data) == [("q?", "good", "bad")]


def test_a_verdict_can_be_read_as_two_columns_and_back(tmp_path):
    content = json_lines([("q?", "one", "two", "b")], COLUMNS)
    data = corrected(tmp_path, content, shape="pairs", chosen="response_a", rejected="response_b")
    assert texts_of(data) == [("q?", "one", "two")]
    assert texts_of(corrected(tmp_path, content, shape="verdict")) == [("q?", "two", "one")]


def test_another_verdict_of_the_same_file(tmp_path):
    rows = [("q?", "one", "two", 0, 1)]
    header = ("prompt", "response_0", "response_1", "better_response_id", "safer_response_id")
    content = json_lines(rows, header)
    assert texts_of(loaded(tmp_path, content)) == [("q?", "one", "two")]
    assert texts_of(corrected(tmp_path, content, verdict="safer_response_id")) == [
        ("q?", "two", "one")
    ]


def test_a_conversation_with_other_names(tmp_path):
    row = {"talk": [user("q?"), assistant("good")], "worse_one": "bad"}
    data = corrected(
        tmp_path, json.dumps(row), shape="conversation", prompt="talk", rejected="worse_one"
    )
    assert texts_of(data) == [("q?", "good", "bad")]


@pytest.mark.parametrize(
    ("values", "fact"),
    [
        ({"shape": "tree"}, "no shape “tree”"),
        ({"best": "x"}, "--map has no “best”"),
        ({"is_reversed": "maybe"}, "is_reversed is yes or no"),
    ],
)
def test_unknown_keys_and_shapes_are_refused(tmp_path, values, fact):
    with pytest.raises(InputError, match=fact):
        corrected(tmp_path, json_lines(TWO, COLUMNS), **values)


@pytest.mark.parametrize(
    ("values", "fact"),
    [
        ({"shape": "ranking"}, "No column is chosen for the responses"),
        ({"shape": "ranking", "responses": "response_a"}, "does not order the responses"),
        ({"shape": "labelled"}, "“responses”, “label” need a column each"),
        ({"shape": "verdict", "verdict": "prompt", "prompt": "winner"}, "does not show whether"),
        ({"verdict": "no such"}, "no column “no such”"),
        ({"shape": "verdict", "first": "response_b"}, "“first”, “second” need a column each"),
    ],
)
def test_columns_that_do_not_fit_are_asked_again(tmp_path, values, fact):
    with pytest.raises(NeedsColumns, match=fact):
        corrected(tmp_path, json_lines([("q?", "one", "two", "b")], COLUMNS), **values)


def test_the_recognised_mapping_gives_the_same_pairs_when_it_is_chosen(tmp_path):
    files = [
        json_lines([("q?", "one", "two", "b")], COLUMNS),
        json_lines([("q?", ["x", "y"], [1, 2])], ("prompt", "responses", "scores")),
        json_lines([("q?", "x", ["y", "z"])], ("prompt", "chosen", "rejected")),
        json_lines([("q?", "x", True), ("q?", "y", False)], ("prompt", "completion", "label")),
        json_lines([([user("q?"), assistant("x")], "y")], ("messages", "rejected_response")),
        json.dumps({"input": {"messages": [user("q?")]}, "preferred_output": [assistant("x")],
                    "non_preferred_output": [assistant("y")]}),
        json_lines([("q?", "a b", "c d", "e f", "2")],
                   ("prompt", "answer_1", "answer_2", "answer_3", "best")),
    ]  # fmt: skip
    for content in files:
        data = loaded(tmp_path, content)
        assert data.report.mapping is not None
        again = loaded(tmp_path, content, ReadChoices(mapping=data.report.mapping))
        assert list(again.pairs) == list(data.pairs)


def test_a_corrected_ambiguous_file_is_remembered(tmp_path):
    content = json_lines(TWO, COLUMNS)
    corrected(tmp_path, content, first_values="1", second_values="2")
    data = loaded(tmp_path, content)
    assert data.report.is_remembered
    assert len(data.pairs) == 2


def test_a_mapping_survives_its_fields():
    mapping = ColumnMapping("p", shape="verdict", first="a", second="b", is_reversed=True)
    assert mapping_of({"prompt": "p", "shape": "verdict", "first": "a", "second": "b",
                       "is_reversed": True}) == mapping  # fmt: skip
    assert dict(mapping.parts()) == {"prompt": "p", "first": "a", "second": "b"}
