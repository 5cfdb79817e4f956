"""Preferences in a list of a row, in the last turn of a conversation, and in rounds."""

import json

import pytest
from files import assistant, loaded, parquet, separated, system, user

from orpo_qlora.errors import DataError

Q, GOOD, BAD = "How do magnets work?", "Aligned spins make a field.", "Magic."
Q2, GOOD2, BAD2 = "Why does ice float?", "It is less dense.", "It is cold."
ONCE, BOTH = [(Q, GOOD, BAD)], [(Q, GOOD, BAD), (Q2, GOOD2, BAD2)]
EARLIER = [("Hi", "Hello", Q, GOOD, BAD)]
ROUNDS = [{"human": "Hi", "assistant": "Hello"}]


def nova(text, label):
    return {"content": [{"text": text}], "preferenceLabel": label}


CASES = {
    "pairs": (
        [{"prompt": Q, "pairs": [{"chosen": GOOD, "rejected": BAD},
                                 {"chosen": "One.", "rejected": "Two."}]}],
        [(Q, GOOD, BAD), (Q, "One.", "Two.")],
    ),
    "pairs with prompts": (
        [{"id": 1, "pairs": [{"prompt": q, "chosen": g, "rejected": b} for q, g, b in BOTH]}], BOTH,
    ),
    "comparisons of winner and loser": (
        [{"instruction": q, "comparisons": [{"winner": g, "loser": b}]} for q, g, b in BOTH], BOTH,
    ),
    "comparisons with a verdict": (
        [{"prompt": Q, "comparisons": [
            {"response_a": BAD, "response_b": GOOD, "winner": "b"},
            {"response_a": GOOD2, "response_b": BAD2, "winner": "a"}]}],
        [(Q, GOOD, BAD), (Q, GOOD2, BAD2)],
    ),
    "pairs of messages": (
        [{"messages": [system("Hi"), user(Q)],
          "pairs": [{"chosen": assistant(GOOD), "rejected": assistant(BAD)}]}],
        [("Hi", Q, GOOD, BAD)],
    ),
    "lists of two": ([{"prompt": q, "pairs": [[g, b]]} for q, g, b in BOTH], BOTH),
    "an object in a cell": ([{"prompt": Q, "preference": {"chosen": GOOD, "rejected": BAD}}], ONCE),
    "objects for prompt and responses": (
        [{"input": {"prompt": Q}, "output": {"chosen": GOOD, "rejected": BAD}}], ONCE,
    ),
    "candidates of the last turn": (
        [{"system": [{"text": "Hi"}], "messages": [
            {"role": "user", "content": [{"text": Q}]},
            {"role": "assistant", "candidates": [
                nova(BAD, "non-preferred"), nova(GOOD, "preferred")]}]}],
        [("Hi", Q, GOOD, BAD)],
    ),
    "chosen and rejected in the last turn": (
        [{"messages": [user(Q), {"role": "assistant", "chosen": GOOD, "rejected": BAD}]}], ONCE,
    ),
    "a rejected response beside the last turn": (
        [{"messages": [user(Q), {**assistant(GOOD), "rejected": BAD}]}], ONCE,
    ),
    "chosen and rejected in the last round": (
        [{"conversation": [*ROUNDS, {"human": Q, "chosen": GOOD, "rejected": BAD}]}], EARLIER,
    ),
    "rounds that end with the chosen response": (
        [{"conversation": [*ROUNDS, {"human": Q, "assistant": GOOD}], "rejected": BAD}], EARLIER,
    ),
    "rounds that end with the prompt": (
        [{"conversation": [*ROUNDS, {"human": Q}], "chosen": GOOD, "rejected": BAD}], EARLIER,
    ),
    "rounds of input and output": (
        [{"conversation": [{"input": "Hi", "output": "Hello"}, {"input": Q, "output": GOOD}],
          "rejected_response": BAD}], EARLIER,
    ),
    "rounds in both responses": (
        [{"chosen": [{"human": Q, "assistant": GOOD}],
          "rejected": [{"human": Q, "assistant": BAD}]}], ONCE,
    ),
    "rounds as history": (
        [{"history": [{"question": "Hi", "answer": "Hello"}], "prompt": Q, "chosen": GOOD,
          "rejected": BAD}], EARLIER,
    ),
    "one message an object": (
        [{"history": [{"user": "Hi"}, {"assistant": "Hello"}], "prompt": Q, "chosen": GOOD,
          "rejected": BAD}], EARLIER,
    ),
    "prompts and replies as lists": (
        [{"src": ["Hi", Q], "tgt": ["Hello"], "response": [[GOOD], [BAD]], "sort": [1, 0]}],
        EARLIER,
    ),
    "responses that continue a text": (
        [{"prompt": Q, "initial_reason_steps": "Step 1: ", "chosen": GOOD, "rejected": BAD}],
        [(Q, f"Step 1: {GOOD}", f"Step 1: {BAD}")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_pairs_are_exact_in_every_format(tmp_path, name):
    rows, expected = CASES[name]
    header = list(rows[0])
    values = [[row[key] for key in header] for row in rows]
    cells = [[json.dumps(one) if isinstance(one, list | dict) else one for one in row]
             for row in values]  # fmt: skip
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    for content in (json.dumps(rows), lines * 2, parquet(values, header), separated(cells, header)):
        data = loaded(tmp_path, content, name="data")
        wanted = expected * 2 if content == lines * 2 else expected
        assert [flat(pair) for pair in data.pairs] == wanted
        assert not data.report.drops


def flat(pair):
    earlier = [turn.content for turn in pair.earlier]
    return (*earlier, pair.prompt, pair.chosen, pair.rejected)


def test_objects_without_a_preference_are_counted(tmp_path):
    pairs = [
        {"response_a": BAD, "response_b": GOOD, "winner": "b"},
        {"response_a": GOOD, "response_b": BAD, "winner": "tie"},
    ]
    rows = [{"prompt": Q, "comparisons": pairs}, {"prompt": Q2, "comparisons": []}]
    data = loaded(tmp_path, json.dumps(rows), name="data")
    assert [flat(pair) for pair in data.pairs] == ONCE
    assert {(drop.reason, drop.rows) for drop in data.report.drops} == {
        ("tie", (1,)), ("no-messages", (2,)),
    }  # fmt: skip
    assert data.report.candidates == 3
    assert data.report.notes[0] == "Each object of the list “comparisons” is read like a row."


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": Q, "chosen": GOOD, "rejected": BAD, "pairs": [{"chosen": "x", "rejected": "y"}]},
        {"prompt": Q, "chosen": GOOD, "rejected": BAD, "messages": [{"human": Q, "chosen": "x"}]},
    ],
)
def test_columns_of_the_row_come_first(tmp_path, row):
    assert [flat(pair) for pair in loaded(tmp_path, json.dumps([row]), name="data").pairs] == ONCE


def test_a_response_in_json_is_no_conversation(tmp_path):
    row = {"prompt": Q, "chosen": '[{"input": "x", "output": "y"}]', "rejected": BAD}
    [pair] = loaded(tmp_path, json.dumps([row]), name="data").pairs
    assert pair.chosen == row["chosen"]


def test_a_list_with_one_text_is_that_text(tmp_path):
    row = {"prompt": [Q], "chosen": [GOOD], "rejected": [BAD]}
    data = loaded(tmp_path, json.dumps([row, row]), name="data")
    assert [flat(pair) for pair in data.pairs] == ONCE * 2


@pytest.mark.parametrize(
    ("row", "fact"),
    [
        ({"prompt": Q, "response": GOOD, "annotations": [{"positive": "x", "negative": "y"}]},
         "one response per row"),
        ({"conversation": [{"human": Q, "assistant": GOOD}]}, "one response each"),
        ({"conversations": [Q, GOOD], "source": "x"}, "one response each"),
        ({"messages": [user(Q), {**assistant(GOOD), "weight": 1}]}, "one response each"),
        ({"prompt": Q, "completions": ["One.", "Two."], "labels": [True, False]},
         "steps of one response"),
    ],
)  # fmt: skip
def test_what_is_no_preference_is_named(tmp_path, row, fact):
    with pytest.raises(DataError, match=fact) as caught:
        loaded(tmp_path, json.dumps([row, row]), name="data.json")
    assert "first line" not in caught.value.hint
