"""What orders responses, in the many ways it is written: marks, names, ranks, phrases, texts."""

import json

import pytest
from files import assistant, loaded, system, user

Q, GOOD, BAD = "Why is the sky blue?", "Air scatters blue light.", "No idea."
Q2, GOOD2, BAD2 = "And at dusk?", "The light's path is longer.", "It rests."
BOTH = [(Q, GOOD, BAD), (Q2, GOOD2, BAD2)]


def two(**values):
    """Two rows, the better response first in one and second in the other."""
    names = list(values)
    return [
        {"prompt": Q, "response_1": GOOD, "response_2": BAD} | {n: values[n][0] for n in names},
        {"prompt": Q2, "response_1": BAD2, "response_2": GOOD2} | {n: values[n][1] for n in names},
    ]


CASES = {
    "one rank for each": two(rank_1=[1, 2], rank_2=[2, 1]),
    "scores by name": two(
        scores=[{"response_1": 4, "response_2": 3}, {"response_1": 4, "response_2": 5}]
    ),
    "the better text": two(preferred=[GOOD, GOOD2]),
    "a phrase": two(preference=["Response 1 is slightly better", "Strongly prefer response 2."]),
    "a phrase with both": two(
        verdict=["Response 1 is much better than response 2", "response 2 wins"]
    ),
    "marks": [
        {"prompt": q,
         "responses": [{"text": g, "label": "chosen"}, {"text": b, "label": "rejected"}][::way]}
        for (q, g, b), way in zip(BOTH, (1, -1), strict=True)
    ],
    "true in the selected one": [
        {"prompt": q,
         "answers": [{"answer": g, "selected": True}, {"answer": b, "selected": False}][::way]}
        for (q, g, b), way in zip(BOTH, (1, -1), strict=True)
    ],
    "votes": [
        {"prompt": q, "answers": [{"text": b, "votes": 2}, {"text": g, "votes": 11}]}
        for q, g, b in BOTH
    ],
    "responses and scores by model": [
        {"prompt": q, "responses": {"m": g, "n": b}, "scores": {"n": 1, "m": 9}} for q, g, b in BOTH
    ],
    "three columns and a list of scores": [
        {"prompt": q, "response_1": "Hm.", "response_2": g, "response_3": b, "scores": [5, 9, 1]}
        for q, g, b in BOTH
    ],
    "three columns and a list of ranks": [
        {"prompt": q, "response_1": "Hm.", "response_2": g, "response_3": b, "ranks": [2, 1, 3]}
        for q, g, b in BOTH
    ],
    "an order of numbers from 1": [
        {"prompt": Q, "responses": ["Hm.", GOOD, BAD], "ranking": "2>1>3"},
        {"prompt": Q2, "responses": [GOOD2, BAD2], "ranking": "1 > 2"},
    ],
    "an order of numbers from 0": [
        {"prompt": Q, "responses": [BAD, GOOD], "rank_str": "1>0"},
        {"prompt": Q2, "responses": [GOOD2, BAD2], "rank_str": "0>1"},
    ],
    "an order with equals, and backwards": [
        {"prompt": Q, "responses": [GOOD, BAD, "Hm."], "ranking": "1>2=3"},
        {"prompt": Q2, "responses": [BAD2, GOOD2, "Hm."], "ranking": "1<3<2"},
    ],
    "an order of letters": [
        {"prompt": q, "response_a": "Hm.", "response_b": g, "response_c": b, "ranking": "B>A>C"}
        for q, g, b in BOTH
    ],
    "an order of two columns": two(ranking=["1>2", "2>1"]),
    "an order of models in a list": [
        {"prompt": q, "responses": {"m": b, "n": g, "o": "Hm."}, "ranking": ["n", "o", "m"]}
        for q, g, b in BOTH
    ],
    "the best model": [
        {"prompt": q, "responses": {"m": b, "n": g}, "winner": "n"} for q, g, b in BOTH
    ],
    "the best letter": [
        {"prompt": q, "options": [b, g], "best_answer": "B"} for q, g, b in BOTH
    ],
    "the best and the worst position": [
        {"prompt": q, "completions": ["Hm.", g, b], "chosen_idx": 1, "rejected_idx": 2} | more
        for (q, g, b), more in zip(
            BOTH, ({}, {"completions": [GOOD2, BAD2], "chosen_idx": 0, "rejected_idx": 1}),
            strict=True)
    ],
    "ids of objects": [
        {"prompt": q, "responses": [{"id": 10, "text": b}, {"id": 11, "text": g}], "chosen_id": 11}
        for q, g, b in BOTH
    ],
    "accepted options of Prodigy": [
        {"text": q, "options": [{"id": "a", "text": b}, {"id": "b", "text": g}], "accept": ["b"],
         "answer": "accept"} for q, g, b in BOTH
    ],
    "objects of scores beside the responses": [
        {"instruction": q, "responses": [b, g], "rewards_armo": [{"score": 1}, {"score": 3}]}
        for q, g, b in BOTH
    ],
    "answers by named authors": [
        {"question": q, "answers": [{"author": "Joe", "text": b, "pm_score": 1},
                                    {"author": "Ann", "text": g, "pm_score": 5}]}
        for q, g, b in BOTH
    ],
    "kinds of responses": [
        {"prompt": q, "responses": [{"type": "rejected", "text": b}, {"type": "chosen", "text": g}]}
        for q, g, b in BOTH
    ],
    "preferred and non-preferred": [
        {"prompt": q, "responses": [{"content": b, "preference": "non-preferred"},
                                    {"content": g, "preference": "preferred"}]}
        for q, g, b in BOTH
    ],
    "scores inside two responses": [
        {"prompt": q, "response_a": {"text": b, "score": 1}, "response_b": {"text": g, "score": 4}}
        for q, g, b in BOTH
    ],
    "weighted preferences": two(preference=[1.02, 1.97]),
    "left and right": two(comparison=["left", "right"]),
    "Label Studio": [
        {"data": {"prompt": q, "answer1": b, "answer2": g},
         "annotations": [{"result": [{"type": "pairwise", "value": {"selected": "right"}}]}]}
        for q, g, b in BOTH
    ],
    **{
        f"the phrase {first}": two(preference=[first, second])
        for first, second in (
            ("response_1_better", "response_2_better"), ("1 wins", "2_wins"),
            ("Response 1 (slightly better)", "response 2 (much better)"),
            ("slightly response 1", "strongly response 2"),
            ("prefer_response_1", "prefer_response_2"), ("[[1>>2]]", "[[2>1]]"),
        )
    },
    "three columns and their letters in order": [
        {"prompt": q, "response_a": "Hm.", "response_b": g, "response_c": b,
         "ranking": ["b", "a", "c"]} for q, g, b in BOTH
    ],
    "no rejected ones in some rows": [
        {"prompt": q, "chosen": g, "rejected": rejected}
        for (q, g, _), rejected in zip(
            [*BOTH, (Q, GOOD, "")] , ([BAD, "Hm."], [BAD2], []), strict=True)
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_pairs_are_exact(tmp_path, name):
    text = "".join(json.dumps(row) + "\n" for row in CASES[name])
    data = loaded(tmp_path, text, name="data")
    assert [(pair.prompt, pair.chosen, pair.rejected) for pair in data.pairs] == BOTH


@pytest.mark.parametrize("value", ["About the same", "equally good", "No clear winner"])
def test_ties_in_words_are_dropped(tmp_path, value):
    rows = [*two(preference=["response 1 is better", "response 2 is better"]),
            {"prompt": Q, "response_1": "a", "response_2": "b", "preference": value}]  # fmt: skip
    data = loaded(tmp_path, json.dumps(rows), name="data")
    assert {drop.reason: drop.count for drop in data.report.drops} == {"tie": 1}
    assert len(data.pairs) == 2


def test_a_negated_phrase_is_unclear(tmp_path):
    rows = [*two(preference=["response 1 is better", "response 2 is better"]),
            {"prompt": Q, "response_1": "a", "response_2": "b",
             "preference": "Response 1 is not better"}]  # fmt: skip
    data = loaded(tmp_path, json.dumps(rows), name="data")
    assert {drop.reason for drop in data.report.drops} == {"unclear-verdict"}


def test_one_row_of_lists_is_not_taken_for_columns(tmp_path):
    row = {
        "prompt": [system("Be brief."), user(Q)],
        "responses": [[assistant(BAD)], [assistant(GOOD)]],
        "scores": [1, 2],
    }
    [pair] = loaded(tmp_path, json.dumps(row), name="data").pairs
    assert (pair.prompt, pair.chosen, pair.rejected) == (Q, GOOD, BAD)


def test_a_verdict_that_is_null_is_unclear_and_no_tie(tmp_path):
    rows = [*two(winner=["response_1", "response_2"]),
            {"prompt": Q, "response_1": "a", "response_2": "b", "winner": None}]  # fmt: skip
    data = loaded(tmp_path, json.dumps(rows), name="data")
    assert {drop.reason: drop.count for drop in data.report.drops} == {"unclear-verdict": 1}


@pytest.mark.parametrize("texts", [1, 3])
def test_rows_of_texts_and_of_messages_mix(tmp_path, texts):
    rows = [{"prompt": Q, "chosen": GOOD, "rejected": BAD}] * texts
    rows += [{"prompt": [user(Q2)], "chosen": [assistant(GOOD2)], "rejected": BAD2}] * 2
    data = loaded(tmp_path, json.dumps(rows), name="data")
    assert [(pair.prompt, pair.chosen, pair.rejected) for pair in data.pairs] == [
        *[BOTH[0]] * texts,
        *[BOTH[1]] * 2,
    ]


def test_tools_beside_messages_are_not_the_list_of_a_file(tmp_path):
    row = {
        "tools": [{"type": "function", "function": {"name": "look"}}],
        "messages": [user(Q), assistant(GOOD)],
        "rejected_response": BAD,
    }
    [pair] = loaded(tmp_path, json.dumps(row), name="data").pairs
    assert (pair.prompt, pair.chosen, pair.rejected) == (Q, GOOD, BAD)
    assert "look" in pair.tool_use.tools
