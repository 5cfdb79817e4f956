"""Ranked lists: best and worst, best and rest, or all pairs; equal scores are never paired."""

import json

import pytest
from files import assistant, json_lines, loaded, parquet, separated, texts_of

from orpo_qlora.data.files.choices import ReadChoices

ANSWERS = ["mid", "best", "worst"]
PAIRS = {
    "best_worst": [("q?", "best", "worst")],
    "best_rest": [("q?", "best", "mid"), ("q?", "best", "worst")],
    "all": [("q?", "best", "mid"), ("q?", "best", "worst"), ("q?", "mid", "worst")],
}


def objects(name, key, numbers=(2, 9, 1)):
    return [{name: text, "model": "m", key: number}
            for text, number in zip(ANSWERS, numbers, strict=True)]  # fmt: skip


@pytest.mark.parametrize("setting", PAIRS)
@pytest.mark.parametrize("write", [json_lines, parquet])
@pytest.mark.parametrize(
    ("header", "row"),
    [
        pytest.param("prompt responses scores", (ANSWERS, [2, 9, 1]), id="scores"),
        pytest.param("prompt completions ratings", (ANSWERS, ["2", "9", "1"]), id="text ratings"),
        pytest.param("instruction generations rating", (ANSWERS, [2.0, 9.0, 1.0]), id="distilabel"),
        pytest.param("prompt responses ranks", (ANSWERS, [2, 1, 3]), id="ranks"),
        pytest.param("prompt answers", (objects("answer", "rank", (2, 1, 3)),), id="Nectar"),
        pytest.param("prompt responses", (objects("text", "score"),), id="text and score"),
        pytest.param("instruction completions", (objects("response", "overall_score"),),
                     id="UltraFeedback"),
        pytest.param("prompt responses scores", ([[assistant(one)] for one in ANSWERS], [2, 9, 1]),
                     id="responses as messages"),
    ],
)  # fmt: skip
def test_ranked_responses_give_the_pairs_of_the_setting(tmp_path, header, row, write, setting):
    content = write([("q?", *row)], header.split())
    data = loaded(tmp_path, content, ReadChoices(pairs_from_ranking=setting))
    assert texts_of(data) == PAIRS[setting]
    assert data.report.ranking_pairs == {"best_worst": 1, "best_rest": 2, "all": 3}
    assert (data.report.shape, data.report.rows_read) == ("ranked list", 1)
    assert data.report.candidates == len(data.pairs) + data.report.rows_dropped
    assert "best_worst 1, best_rest 2, all 3" in data.report.to_markdown()


@pytest.mark.parametrize(
    ("answers", "scores"),
    [
        (json.dumps(ANSWERS), "[2, 9, 1]"),
        (repr(ANSWERS), "[2, 9, 1]"),
        ("['mid' 'best'\n 'worst']", "[2. 9. 1.]"),
        ("array(['mid', 'best', 'worst'], dtype=object)", "[np.int64(2), np.int64(9), 1]"),
    ],
    ids=["JSON", "Python", "numpy 1", "numpy 2"],
)  # fmt: skip
def test_lists_written_into_cells(tmp_path, answers, scores):
    content = separated([("q?", answers, scores)], ("prompt", "responses", "scores"))
    assert texts_of(loaded(tmp_path, content)) == PAIRS["best_worst"]


def test_equal_scores_are_ties_and_missing_scores_are_skipped(tmp_path):
    rows = [("q?", ["a", "b"], [1, 1]), ("q?", ANSWERS, [2, 9, 1]), ("q?", ["a", "b"], [1, None]),
            ("q?", ["a", "b"], [1, 2, 3])]  # fmt: skip
    data = loaded(tmp_path, json_lines(rows, ("prompt", "responses", "scores")))
    assert texts_of(data) == PAIRS["best_worst"]
    assert [(drop.reason, drop.rows) for drop in data.report.drops] == [
        ("tie", (1,)), ("no-ranking", (3, 4)),
    ]  # fmt: skip


def test_two_outputs_are_better_and_worse(tmp_path):
    rows = [("q?", "", ["best", "worst"]), ("q?", "about", ["best", "worst"])]
    data = loaded(tmp_path, json_lines(rows, ("instruction", "input", "output")))
    assert texts_of(data) == [("q?", "best", "worst"), ("q?\n\nabout", "best", "worst")]
    assert "holds the better response first" in " ".join(data.report.sentences())


@pytest.mark.parametrize("setting", PAIRS)
def test_rejected_may_be_a_list(tmp_path, setting):
    content = json_lines([("q?", "best", ["worst", "mid"])], ("prompt", "chosen", "rejected"))
    data = loaded(tmp_path, content, ReadChoices(pairs_from_ranking=setting))
    every = [("q?", "best", "worst"), ("q?", "best", "mid")]
    assert texts_of(data) == (every[:1] if setting == "best_worst" else every)


def test_numbered_columns_with_scores(tmp_path):
    header = ["prompt", *(f"response_{n}" for n in (1, 2, 3)), *(f"score_{n}" for n in (1, 2, 3))]
    data = loaded(tmp_path, json_lines([("q?", *ANSWERS, 2, 9, 1)], header))
    assert texts_of(data) == PAIRS["best_worst"]


def test_struct_of_lists_is_a_list_of_structs(tmp_path):
    row = ("q?", {"text": ANSWERS, "score": [2, 9, 1]})
    data = loaded(tmp_path, parquet([row], ("prompt", "responses")))
    assert texts_of(data) == PAIRS["best_worst"]


def test_answers_as_objects_with_a_score(tmp_path):
    rows = [("q?", {"text": "best", "score": 9}, {"text": "worst", "score": 1})]
    data = loaded(tmp_path, json_lines(rows, ("prompt", "chosen", "rejected")))
    assert texts_of(data) == PAIRS["best_worst"]
