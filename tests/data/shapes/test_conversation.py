"""Conversations with a rejected response, OpenAI's files, history, parts, tools and media."""

import json

import pytest
from files import assistant, json_lines, loaded, parquet, separated, system, texts_of, user

from orpo_qlora.errors import DataError

TALK = [system("be brief"), user("hi"), assistant("hello"), user("why?")]
PAIR = [("why?", "because", "no idea")]
GOOD, BAD = assistant("because"), assistant("no idea")


def share(role, text):
    return {"from": role, "value": text}


@pytest.mark.parametrize("write", [json_lines, parquet])
@pytest.mark.parametrize(
    ("header", "row", "earlier"),
    [
        (("messages", "rejected_response"), ([*TALK, GOOD], "no idea"), 3),
        (("messages", "rejected_messages"), ([*TALK, GOOD], [*TALK, BAD]), 3),
        (("messages", "rejected_messages"), ([*TALK, GOOD], [BAD]), 3),
        (("messages", "rejected"), ([*TALK, GOOD], BAD), 3),
        (
            ("input", "preferred_output", "non_preferred_output"),
            ({"messages": TALK, "parallel_tool_calls": True}, [GOOD], [BAD]), 3,
        ),
        (
            ("conversations", "chosen", "rejected"),
            ([share("human", "why?")], share("gpt", "because"), share("gpt", "no idea")), 0,
        ),
        (
            ("conversations", "chosen", "rejected"),
            ([share("HUMAN", "why?")], share("Chatbot", "because"), share("model", "no idea")), 0,
        ),
        (
            ("instruction", "history", "chosen", "rejected"),
            ("why?", [["hi", "hello"]], "because", "no idea"), 2,
        ),
        (
            ("query", "response", "rejected_response", "history"),
            ("why?", "because", "no idea", [["hi", "hello"]]), 2,
        ),
        (
            ("messages", "rejected_response"),
            ([user("why?"), GOOD, user("")], "no idea"), 0,
        ),
    ],
)  # fmt: skip
def test_the_last_turn_is_chosen(tmp_path, write, header, row, earlier):
    data = loaded(tmp_path, write([row], header))
    assert texts_of(data) == PAIR
    assert len(data.pairs[0].earlier) == earlier


@pytest.mark.parametrize("case", [str.lower, str.upper, str.title])
@pytest.mark.parametrize("keys", [("role", "content"), ("from", "value")])
@pytest.mark.parametrize("asking", ["human", "user"])
@pytest.mark.parametrize("answering", ["assistant", "gpt", "model", "chatbot", "bot"])
def test_role_words_in_any_case(tmp_path, case, keys, asking, answering):
    role, content = keys
    talk = [(("system", "be brief")), (asking, "hi"), (answering, "hello"), (asking, "why?")]
    row = ([{role: case(name), content: text} for name, text in talk],
           [{role: case(answering), content: "because"}],
           [{role: case(answering), content: "no idea"}])  # fmt: skip
    data = loaded(tmp_path, json_lines([row]))
    assert texts_of(data) == PAIR
    assert [turn.role for turn in data.pairs[0].earlier] == ["system", "user", "assistant"]


def test_content_parts_in_prompt_and_responses(tmp_path):
    def part(text):
        return [{"type": "text", "text": text}]

    rows = [([{"role": "user", "content": part("why?")}], part("because"), part("no idea"))]
    assert texts_of(loaded(tmp_path, json_lines(rows))) == PAIR


@pytest.mark.parametrize(
    ("row", "fact"),
    [
        (([user("q"), {"role": "user", "content": [{"type": "image_url"}]}], [GOOD], [BAD]),
         "an image, audio or video in 1 (row 1: column “prompt”: a content part of type"),
        ((TALK, [{"role": "assistant", "content": None, "tool_calls": [{}]}], [BAD]),
         "the tools or a tool call cannot be read in 1 (row 1: column “chosen”"),
        ((TALK, [{"role": "sphinx", "content": "x"}], [BAD]), "role “sphinx”"),
    ],
)  # fmt: skip
def test_what_is_in_the_way_is_named(tmp_path, row, fact):
    with pytest.raises(DataError) as caught:
        loaded(tmp_path, json_lines([row]))
    assert fact in caught.value.message


def test_images_are_refused_by_name_with_the_count(tmp_path):
    rows = [("q?", "a", "b", {"bytes": "x", "path": None})] * 3
    with pytest.raises(DataError, match=r"image, audio or video in 3 \(row 1: column “image”\)"):
        loaded(tmp_path, json_lines(rows, ("prompt", "chosen", "rejected", "image")))


def test_placeholder_of_a_dropped_image_is_a_finding(tmp_path):
    report = loaded(tmp_path, json_lines([("<image>\nq?", "a", "b")])).report
    assert report.finding("media-placeholder").count == 1


NUMPY = "[{'role': 'user', 'content': \"it's why?\"}\n {'role': 'assistant', 'content': '%s'}]"


@pytest.mark.parametrize("form", ["%s", "array(%s,\n      dtype=object)"])
def test_messages_as_numpy_prints_them(tmp_path, form):
    rows = [("it's why?", form % NUMPY % "be} {'cause", form % NUMPY % "no idea")]
    rows = [(rows[0][0], form % (NUMPY % "because } {"), form % (NUMPY % "no idea"))]
    data = loaded(tmp_path, separated(rows))
    assert texts_of(data) == [("it's why?", "because } {", "no idea")]


def test_broken_messages_are_never_prose(tmp_path):
    rows = [("q?", "because", "no idea"), ("q?", "[{'role': 'assistant', 'conte", "no")]
    report = loaded(tmp_path, separated(rows)).report
    assert [(drop.reason, drop.rows) for drop in report.drops] == [("no-messages", (2,))]
    assert "column “chosen”" in report.finding("no-messages").examples[0].text


@pytest.mark.parametrize(
    "value",
    [
        {"prompt": ["why?", "how?"], "chosen": ["because", "so"], "rejected": ["no idea", "not"]},
        {"prompt": {"0": "why?", "1": "how?"}, "chosen": {"0": "because", "1": "so"},
         "rejected": {"0": "no idea", "1": "not"}},
        {"0": {"prompt": "why?", "chosen": "because", "rejected": "no idea"},
         "1": {"prompt": "how?", "chosen": "so", "rejected": "not"}},
        {"columns": ["prompt", "chosen", "rejected"], "index": [0, 1],
         "data": [["why?", "because", "no idea"], ["how?", "so", "not"]]},
    ],
    ids=["lists", "index", "orient index", "split"],
)  # fmt: skip
@pytest.mark.parametrize("indent", [None, 1])
def test_columns_of_columns(tmp_path, value, indent):
    data = loaded(tmp_path, json.dumps(value, indent=indent))
    assert texts_of(data) == [*PAIR, ("how?", "so", "not")]
    assert data.report.format == "JSON object of columns"


def test_columns_of_messages(tmp_path):
    value = {
        "prompt": ["why?"],
        "chosen": [[user("why?"), GOOD]],
        "rejected": [[user("why?"), BAD]],
    }
    assert texts_of(loaded(tmp_path, json.dumps(value))) == PAIR


def test_json_is_never_asked_for_a_first_line(tmp_path):
    with pytest.raises(DataError) as caught:
        loaded(tmp_path, json_lines([("a", "b")], ("frage", "gut")))
    assert "first line" not in str(caught.value)
    assert "“frage”, “gut”" in caught.value.message
