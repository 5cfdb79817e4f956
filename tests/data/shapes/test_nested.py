"""Preferences inside an object of a row, and Gemini's messages of parts."""

import json

import pytest
from files import assistant, loaded, parquet, system, user

Q, GOOD, BAD = "Why is the sky blue?", "Air scatters blue light.", "No idea."
Q2, GOOD2, BAD2 = "And at dusk?", "The light's path is longer.", "It rests."
BOTH = [(Q, GOOD, BAD), (Q2, GOOD2, BAD2)]


def gemini(role, text):
    return {"role": role, "parts": [{"text": text}]}


def completion(score, text):
    return {"score": score, "completion": gemini("model", text)}


CASES = {
    "data": [{"id": 1, "data": {"prompt": q, "chosen": g, "rejected": b}} for q, g, b in BOTH],
    "one object of the two": [
        {"prompt": q, "responses": {"chosen": g, "rejected": b},
         "scores": {"chosen": 9, "rejected": 1}} for q, g, b in BOTH
    ],
    "Argilla's fields and responses": [
        {"id": str(way), "status": "completed", "fields": {"instruction": q, **{
            f"response-{1 + way}": g, f"response-{2 - way}": b}}, "metadata": {"part": 1},
         "responses": {"preference": [
             {"user_id": "u", "value": f"response-{1 + way}", "status": "submitted"}]}}
        for (q, g, b), way in zip(BOTH, (0, 1), strict=True)
    ],
    "Gemini": [
        {"systemInstruction": gemini("system", "Be brief."), "contents": [gemini("user", q)],
         "completions": [completion(0.0, b), completion(1.0, g)]} for q, g, b in BOTH
    ],
    "messages that end with the user": [
        {"messages": [user(q)], "response": g, "rejected_response": b} for q, g, b in BOTH
    ],
    "a list of rejected responses": [
        {"messages": [user(q), assistant(g)], "rejected_response": [b, "Hm."]} for q, g, b in BOTH
    ],
    "negative messages": [
        {"messages": [user(q), assistant(g)], "negative_messages": [[user(q), assistant(b)]]}
        for q, g, b in BOTH
    ],
}  # fmt: skip


@pytest.mark.parametrize("write", ["json lines", "json array", "parquet"])
@pytest.mark.parametrize("name", CASES)
def test_pairs_are_exact(tmp_path, name, write):
    rows = CASES[name]
    text = json.dumps(rows)
    if write == "json lines":
        text = "".join(json.dumps(row) + "\n" for row in rows)
    content = parquet([tuple(row.values()) for row in rows], list(rows[0]))
    data = loaded(tmp_path, content if write == "parquet" else text, name="data")
    assert [(pair.prompt, pair.chosen, pair.rejected) for pair in data.pairs] == BOTH
    assert not data.report.drops


def test_the_system_instruction_of_gemini_is_kept(tmp_path):
    data = loaded(tmp_path, json.dumps(CASES["Gemini"]), name="data")
    assert [turn.content for turn in data.pairs[0].earlier] == ["Be brief."]


def test_the_rows_of_the_hubs_viewer(tmp_path):
    rows = [
        {"row_idx": at, "row": {"prompt": q, "chosen": g, "rejected": b}, "truncated_cells": []}
        for at, (q, g, b) in enumerate(BOTH)
    ]
    answer = {"features": [{"name": "prompt"}], "rows": rows, "num_rows_total": 2}
    data = loaded(tmp_path, json.dumps(answer), name="data")
    assert [(pair.prompt, pair.chosen, pair.rejected) for pair in data.pairs] == BOTH
    assert data.report.format == "JSON object, list “rows”, keys of “row”"


def test_nothing_is_unfolded_beside_answers_of_its_own(tmp_path):
    row = {"prompt": [system("S"), user(Q)], "chosen": GOOD, "rejected": BAD}
    row |= {"data": {"prompt": "x", "chosen": "y", "rejected": "z"}}
    [pair] = loaded(tmp_path, json.dumps([row]), name="data").pairs
    assert (pair.prompt, pair.chosen, pair.rejected) == (Q, GOOD, BAD)


@pytest.mark.parametrize("ways", ["columns", "index"])
def test_pandas_rows_with_names(tmp_path, ways):
    names = ("prompt", "chosen", "rejected")
    rows = {f"row-{at}": dict(zip(names, row, strict=True)) for at, row in enumerate(BOTH)}
    columns = {name: {key: row[name] for key, row in rows.items()} for name in names}
    text = json.dumps(rows if ways == "index" else columns)
    data = loaded(tmp_path, text, name="data")
    assert [(pair.prompt, pair.chosen, pair.rejected) for pair in data.pairs] == BOTH


def test_one_row_of_objects_is_no_table_of_columns(tmp_path):
    row = {"prompt": {"text": Q}, "chosen": {"text": GOOD}, "rejected": {"text": BAD}}
    [pair] = loaded(tmp_path, json.dumps(row), name="data").pairs
    assert (pair.prompt, pair.chosen, pair.rejected) == (Q, GOOD, BAD)
