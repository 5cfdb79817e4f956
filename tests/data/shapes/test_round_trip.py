"""Any shape gives pairs that are exported and read back as the same pairs."""

import json

import pytest
from files import assistant, user
from hypothesis import given, settings
from hypothesis import strategies as st

from orpo_qlora.data.export import write_clean
from orpo_qlora.data.files.choices import ReadChoices
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
    "letters": lambda q, good, bad: {"prompt": q, "A": f"{bad} x", "B": f"{good} x", "winner": "B"},
    "one-hot": lambda q, good, bad: {
        "prompt": q, "response_a": bad, "response_b": good, "winner_model_a": 0,
        "winner_model_b": 1, "winner_tie": 0,
    },
    "scored columns": lambda q, good, bad: {
        "question": {"full_text": q, "id": "1"}, "answer_0": bad, "answer_1": good, "score_0": -1,
        "score_1": 1,
    },
    "numbered": lambda q, good, bad: {
        "prompt": q, "response_1": bad, "response_2": good, "response_3": bad, "score_1": 1,
        "score_2": 3, "score_3": 1,
    },
    "ranked objects": lambda q, good, bad: {
        "prompt": q, "answers": [{"answer": bad, "rank": 2}, {"answer": good, "rank": 1}],
    },
    "rejected list": lambda q, good, bad: {"prompt": q, "chosen": good, "rejected": [bad]},
    "tool calls": lambda q, good, bad: {
        "prompt": [user(q)],
        "chosen": [{"role": "assistant", "content": good, "tool_calls": [
            {"id": "c1", "function": {"name": "look", "arguments": json.dumps({"q": bad})}}]}],
        "rejected": [assistant(bad)],
        "tools": [{"type": "function", "function": {"name": "look", "description": q}}],
    },
    "lines with roles": lambda q, good, bad: {
        "chosen": f"User: {q}\nAssistant: {good}", "rejected": f"User: {q}\nAssistant: {bad}",
    },
    "common prefix": lambda q, good, bad: {
        "chosen": f"{q}?\nAnswer: {good}", "rejected": f"{q}?\nAnswer: {bad}",
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

WRITTEN = {
    "letters": lambda row: (row[0], f"{row[1]} x", f"{row[2]} x"),
    "common prefix": lambda row: (f"{row[0]}?", row[1], row[2]),
}
"""Texts that differ from those of the row: a shape that needs prose, or a question."""


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
@settings(max_examples=10, deadline=None)
@given(rows=ROWS)
def test_pairs_survive_the_export(tmp_path_factory, shape, ending, rows):
    folder = tmp_path_factory.mktemp("trip")
    path = folder / "data.jsonl"
    lines = [json.dumps(SHAPES[shape](*row), ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    choices = ReadChoices(prompt_from_common_prefix=shape == "common prefix")
    pairs = load_preferences(path, choices=choices).pairs
    assert [(one.prompt, one.chosen, one.rejected) for one in pairs] == [
        WRITTEN.get(shape, tuple)(row) for row in rows
    ]
    copy = folder / f"copy{ending}"
    write_clean(copy, pairs)
    again = load_preferences(copy).pairs
    assert [(one.conversation, one.responses, one.tool_use) for one in again] == [
        (one.conversation, one.responses, one.tool_use) for one in pairs
    ]
