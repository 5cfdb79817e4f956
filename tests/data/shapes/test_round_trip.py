"""Any shape gives pairs that are exported and read back as the same pairs."""

import json

import pytest
from files import assistant, user
from hypothesis import given, settings
from hypothesis import strategies as st

from orpo_qlora.data.export import write_clean
from orpo_qlora.data.pairs import load_preferences

TEXTS = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=20)
ROWS = st.lists(st.tuples(TEXTS, TEXTS, TEXTS).filter(lambda row: row[1] != row[2]), min_size=1,
                max_size=4)  # fmt: skip
SHAPES = {
    "verdict": lambda q, good, bad: {
        "prompt": q, "response_a": bad, "response_b": good, "winner": "b",
    },
    "signed": lambda q, good, bad: {
        "prompt": q, "response_1": good, "response_2": bad, "preference_strength": -1,
    },
    "ranking": lambda q, good, bad: {"prompt": q, "responses": [bad, good], "scores": [1, 2]},
    "messages": lambda q, good, bad: {
        "messages": [user("hi"), assistant("yes?"), user(q), assistant(good)],
        "rejected_response": bad,
    },
    "chatml": lambda q, good, bad: {
        name: f"<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n{text}<|im_end|>\n"
        for name, text in (("chosen", good), ("rejected", bad))
    },
    "openai": lambda q, good, bad: {
        "input": {"messages": [user(q)]}, "preferred_output": [assistant(good)],
        "non_preferred_output": [assistant(bad)],
    },
    "sharegpt": lambda q, good, bad: {
        "conversations": [{"from": "human", "value": q}],
        "chosen": {"from": "gpt", "value": good}, "rejected": {"from": "gpt", "value": bad},
    },
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
@settings(max_examples=10, deadline=None)
@given(rows=ROWS)
def test_pairs_survive_the_export(tmp_path_factory, shape, ending, rows):
    folder = tmp_path_factory.mktemp("trip")
    path = folder / "data.jsonl"
    lines = [json.dumps(SHAPES[shape](*row), ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    pairs = load_preferences(path).pairs
    assert [(one.prompt, one.chosen, one.rejected) for one in pairs] == [
        row for row in rows if row[1].strip() != row[2].strip()
    ]
    copy = folder / f"copy{ending}"
    write_clean(copy, pairs)
    again = load_preferences(copy).pairs
    assert [(one.conversation, one.chosen, one.rejected) for one in again] == [
        (one.conversation, one.chosen, one.rejected) for one in pairs
    ]
