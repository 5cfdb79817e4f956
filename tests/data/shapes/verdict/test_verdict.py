"""Two responses and a verdict: the better one is chosen row by row; ties are dropped."""

import json

import pytest
from files import assistant, json_lines, loaded, parquet, separated, texts_of, user

from orpo_qlora.data.columns import ColumnMapping
from orpo_qlora.data.files.choices import ReadChoices
from orpo_qlora.errors import DataError

PAIRS = [("q1?", "good", "bad"), ("q2?", "good", "bad")]
ONE_HOT = ["prompt", "response_a", "response_b", "winner_model_a", "winner_model_b", "winner_tie"]
SIDES = [("good", "bad"), ("bad", "good"), ("good", "worse"), ("left", "right")]


def read(tmp_path, header, verdicts, write=json_lines):
    rows = [(f"q{number}?", *side, *verdict) for number, (side, verdict)
            in enumerate(zip(SIDES, verdicts, strict=False), start=1)]  # fmt: skip
    return loaded(tmp_path, write(rows, header), name="pairs.jsonl")


@pytest.mark.parametrize("write", [json_lines, separated, parquet])
@pytest.mark.parametrize(
    ("header", "verdicts"),
    [
        pytest.param("prompt response_1 response_2 preference_strength", [-2, 3, 0], id="signed"),
        pytest.param("context response1 response2 overall_preference", [-1, 1, 0], id="HelpSteer3"),
        pytest.param("prompt response_1 response_2 preference", [1, 2, 0], id="AlpacaFarm"),
        pytest.param("instruction output_1 output_2 preference", ["1", "2", "0"], id="texts 1, 2"),
        pytest.param("prompt response_a response_b preferred", list("ABx"), id="A and B"),
        pytest.param("prompt response_a response_b preferred", ["a", "b", "tie"], id="a, b, tie"),
        pytest.param("prompt response_a response_b preferred", ['"A"', '"B"', "both"], id="quoted"),
        pytest.param("prompt response_a response_b winner", [0, 1], id="0 and 1"),
        pytest.param("prompt response_a response_b winner", [1, 2], id="1 and 2"),
        pytest.param("prompt response_a response_b winner", ["model_a", "model_b", "tie (bothbad)"],
                     id="arena words"),
        pytest.param("prompt Response A,Response B better", ["Response A", "Response B", "tie"],
                     id="names of the columns"),
        pytest.param("prompt response_a response_b winner", ["model_a", "model_b", "both bad"],
                     id="both bad"),
        pytest.param("prompt response_a response_b winner", ["A", "B", "both_bad"], id="both_bad"),
        pytest.param("prompt response_1 response_2 preference", ["1", "2", "tie"],
                     id="numbers and ties"),
        pytest.param("prompt answer_a answer_b verdict", ["[[A]]", "[[B]]", "[[C]]"],
                     id="MT-bench"),
        pytest.param("prompt answer_a answer_b verdict", ["A>>B", "B>A", "A=B"], id="A>B"),
        pytest.param("prompt response-1 response-2 preference", ["response-1", "response-2", "tie"],
                     id="Argilla"),
        pytest.param("prompt response_0 response_1 better_response_id", [0, 1], id="PKU-SafeRLHF"),
        pytest.param("history human_ref_A human_ref_B labels", [1, 0], id="SHP"),
    ],
)  # fmt: skip
def test_better_response_is_chosen(tmp_path, write, header, verdicts):
    columns = (
        header.split() if "," not in header else ["prompt", "Response A", "Response B", "better"]
    )
    data = read(tmp_path, columns, [[verdict] for verdict in verdicts], write)
    assert texts_of(data) == PAIRS
    assert data.report.shape == "two answers and a verdict"
    dropped = sum(drop.count for drop in data.report.drops)
    assert data.report.rows_read == len(verdicts) == len(PAIRS) + dropped
    assert {drop.reason for drop in data.report.drops} <= {"tie", "unclear-verdict"}


@pytest.mark.parametrize("write", [json_lines, separated, parquet])
@pytest.mark.parametrize(
    ("header", "verdicts"),
    [
        pytest.param("prompt response_a response_b a_is_better", [True, False], id="a_is_better"),
        pytest.param("prompt response_a response_b b_is_better", [False, True], id="b_is_better"),
        pytest.param("prompt answer_1 answer_2 is_answer_1_better", [True, False, None],
                     id="is_answer_1_better"),
        pytest.param("prompt response_1 response_2 response_2_preferred", [0, 1], id="numbers"),
        pytest.param("prompt left_text right_text first_is_better", ["yes", "no", "?"],
                     id="yes and no"),
    ],
)  # fmt: skip
def test_a_verdict_may_be_true_or_false(tmp_path, write, header, verdicts):
    data = read(tmp_path, header.split(), [[verdict] for verdict in verdicts], write)
    assert texts_of(data) == PAIRS
    assert f"“{header.split()[-1]}” is true or false." in " ".join(data.report.sentences())
    expected = [("unclear-verdict", (3,))] if len(verdicts) > 2 else []
    assert [(drop.reason, drop.rows) for drop in data.report.drops] == expected


def test_true_of_both_or_of_neither_is_a_tie(tmp_path):
    header = ["prompt", "response_a", "response_b", "a_is_better", "b_is_better"]
    data = read(tmp_path, header, [[True, False], [False, True], [True, True], [False, False]])
    assert texts_of(data) == PAIRS
    assert [(drop.reason, drop.rows) for drop in data.report.drops] == [("tie", (3, 4))]


def test_one_column_per_outcome(tmp_path):
    header = ONE_HOT
    data = read(tmp_path, header, [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]])
    assert texts_of(data) == PAIRS
    assert [(drop.reason, drop.rows) for drop in data.report.drops] == [
        ("tie", (3,)), ("unclear-verdict", (4,)),
    ]  # fmt: skip


def test_lmsys_writes_rounds_as_lists_in_text(tmp_path):
    header = ONE_HOT
    rows = [
        ('["q1?"]', '["good"]', '["bad"]', 1, 0, 0),
        ('["hi", "q2?"]', '["hello", "bad"]', '["hello", "good"]', 0, 1, 0),
    ]
    data = loaded(tmp_path, separated(rows, header))
    assert texts_of(data) == PAIRS
    assert [turn.content for turn in data.pairs[1].earlier] == ["hi", "hello"]


def test_arena_conversations(tmp_path):
    talks = [(([user("q1?"), assistant("good")]), [user("q1?"), assistant("bad")], "model_a"),
             (([user("q2?"), assistant("bad")]), [user("q2?"), assistant("good")], "model_b"),
             (([user("q3?"), assistant("x")]), [user("q3?"), assistant("y")], "tie")]  # fmt: skip
    header = ("conversation_a", "conversation_b", "winner")
    data = loaded(tmp_path, parquet(talks, header))
    assert texts_of(data) == PAIRS
    assert [drop.reason for drop in data.report.drops] == ["tie"]


def test_scores_of_two_responses(tmp_path):
    data = read(tmp_path, ["question", "answer_0", "answer_1", "score_0", "score_1"],
                [[0.5, -0.5], [-1, 1], [0, 0]])  # fmt: skip
    assert texts_of(data) == PAIRS
    assert [drop.reason for drop in data.report.drops] == ["tie"]


def test_winner_may_be_the_name_of_a_model(tmp_path):
    rows = [("q1?", "good", "bad", "m1", "m2", "m1"), ("q2?", "bad", "good", "m1", "m2", "m2")]
    header = ["prompt", "response_a", "response_b", "model_a", "model_b", "winner"]
    assert texts_of(loaded(tmp_path, json_lines(rows, header))) == PAIRS


def test_a_verdict_nobody_can_read_never_becomes_the_chosen_column(tmp_path):
    with pytest.raises(DataError, match="“winner” does not show whether “response_a” or"):
        read(tmp_path, ["prompt", "response_a", "response_b", "winner"], [["x"], ["y"]])


def test_numbers_that_can_mean_two_things_are_refused(tmp_path):
    with pytest.raises(DataError, match="“winner” holds 0, 1, 2, which does not show"):
        read(tmp_path, ["prompt", "response_a", "response_b", "winner"], [[0], [1], [2]])


def test_the_user_may_still_choose_columns(tmp_path):
    choices = ReadChoices(mapping=ColumnMapping("prompt", "response_b", "response_a"))
    row = {"prompt": "q?", "response_a": "x", "response_b": "y", "winner": "a"}
    assert texts_of(loaded(tmp_path, json.dumps(row), choices)) == [("q?", "y", "x")]


def test_a_verdict_may_repeat_the_better_response(tmp_path):
    rows = [("q1?", "good", "bad", "good", "bad"), ("q2?", "bad", "good", "good", "bad"),
            ("q3?", "x", "y", "neither of them", "")]  # fmt: skip
    header = ["prompt", "answer_1", "answer_2", "preferred", "dispreferred"]
    data = loaded(tmp_path, json_lines(rows, header))
    assert texts_of(data) == PAIRS
    assert [drop.reason for drop in data.report.drops] == ["unclear-verdict"]
