"""Tools and tool calls are read, kept through files and exports, and shown as text."""

import json
from pathlib import Path

import pytest
from files import HEADER, assistant, json_lines, loaded, parquet, separated, system, user

from orpo_qlora.data.export import write_clean
from orpo_qlora.data.files.choices import ReadChoices
from orpo_qlora.data.messages import Message, ToolUse
from orpo_qlora.data.pairs import PreferencePair, load_preferences, read_pairs, write_pairs
from orpo_qlora.errors import DataError

SHARED = Path(__file__).parents[3].parent / "shared/data/shapes/tools_messages.jsonl"
LOOK = {"type": "function", "function": {"name": "look", "arguments": {"city": "Rome"}}}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": PARAMETERS}}]
ASKED = [system("Use tools."), user("Is it warm in Rome?")]
CALL = {"role": "assistant", "content": None, "tool_calls": [LOOK]}
RESULT = {"role": "tool", "name": "look", "content": "31 degrees"}
CALLS = json.dumps([LOOK])
STEPS = (Message("assistant", "", CALLS), Message("tool", "31 degrees", name="look"))
SYSTEM = (Message("system", "Use tools."),)


def pair_of(chosen, rejected, **use):
    return PreferencePair("Is it warm in Rome?", chosen, rejected, 1, SYSTEM, ToolUse(**use))


ANSWERED = pair_of("Yes, 31 degrees.", "No.", tools=json.dumps(TOOLS), steps=STEPS)
CALLED = pair_of("", "No.", tools=json.dumps(TOOLS), chosen_calls=CALLS)
YES, NO = assistant("Yes, 31 degrees."), assistant("No.")


@pytest.mark.parametrize("write", [json_lines, parquet, separated])
@pytest.mark.parametrize(
    ("header", "row", "pair"),
    [
        ((*HEADER, "tools"), (ASKED, [CALL], [NO], TOOLS), CALLED),
        ((*HEADER, "tools"), ([*ASKED, CALL, RESULT], [YES], [NO], TOOLS), ANSWERED),
        (
            ("chosen", "rejected", "tools"),
            ([*ASKED, CALL, RESULT, YES], [*ASKED, CALL, RESULT, NO], json.dumps(TOOLS)),
            ANSWERED,
        ),
        (
            ("messages", "rejected_response", "tools"),
            ([*ASKED, CALL, RESULT, YES], "No.", json.dumps(TOOLS)),
            ANSWERED,
        ),
        (
            ("input", "preferred_output", "non_preferred_output"),
            ({"messages": [*ASKED, CALL, RESULT], "tools": TOOLS}, [YES], [NO]),
            ANSWERED,
        ),
        (
            ("conversations", "chosen", "rejected", "tools"),
            (
                [
                    {"from": "system", "value": "Use tools."},
                    {"from": "human", "value": "Is it warm in Rome?"},
                    {"from": "function_call",
                     "value": json.dumps({"name": "look", "arguments": {"city": "Rome"}})},
                    {"from": "observation", "value": "31 degrees"},
                ],
                {"from": "gpt", "value": "Yes, 31 degrees."},
                {"from": "gpt", "value": "No."},
                json.dumps(TOOLS),
            ),
            pair_of(
                "Yes, 31 degrees.", "No.", tools=json.dumps(TOOLS),
                steps=(STEPS[0], Message("tool", "31 degrees")),
            ),
        ),
    ],
    ids=["call", "answer", "implicit", "ms-swift", "OpenAI", "ShareGPT"],
)  # fmt: skip
def test_tools_calls_and_results_are_read(tmp_path, header, row, pair, write):
    if write is separated:
        row = [one if isinstance(one, str) else json.dumps(one) for one in row]
    data = loaded(tmp_path, write([row], header))
    assert list(data.pairs) == [pair]
    found = data.report.finding("tool-use")
    assert (found.count, found.severity) == (1, "note")


@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
@pytest.mark.parametrize("pair", [ANSWERED, CALLED, pair_of("Yes.", "", rejected_calls=CALLS)])
def test_pairs_with_tools_survive_export_and_the_data_folder(tmp_path, pair, ending):
    plain = PreferencePair("hi?", "hello", "bye", 2)
    path = tmp_path / f"clean{ending}"
    write_clean(path, [pair, plain])
    assert list(load_preferences(path).pairs) == [pair, plain]
    write_pairs(tmp_path / "train.jsonl", [pair, plain])
    assert read_pairs(tmp_path / "train.jsonl") == (pair, plain)


def test_arguments_as_text_and_the_old_function_call_are_the_same(tmp_path):
    old = {"role": "assistant", "content": "",
           "function_call": {"name": "look", "arguments": '{"city": "Rome"}'}}  # fmt: skip
    data = loaded(tmp_path, json_lines([(ASKED, [old], [NO], TOOLS)], (*HEADER, "tools")))
    assert list(data.pairs) == [CALLED]


def test_a_call_is_shown_as_text():
    chosen, rejected = CALLED.responses
    assert (chosen.text, rejected.text) == ('look({"city": "Rome"})', "No.")


@pytest.mark.parametrize(
    "row",
    [
        (ASKED, [{"role": "assistant", "content": "", "tool_calls": [{}]}], [NO], TOOLS),
        (ASKED, [CALL], [NO], "no JSON"),
        (ASKED, [CALL], [NO], "[1]"),
    ],
)
def test_what_cannot_be_read_is_dropped_with_its_reason(tmp_path, row):
    rows = [(ASKED, [CALL], [NO], json.dumps(TOOLS)), row]
    rows[1] = (*row[:3], row[3] if isinstance(row[3], str) else json.dumps(row[3]))
    report = loaded(tmp_path, json_lines(rows, (*HEADER, "tools"))).report
    assert [(drop.reason, drop.rows) for drop in report.drops] == [("tool-calls", (2,))]


def test_pairs_with_tools_can_be_dropped_by_a_fix(tmp_path):
    rows = [(ASKED, [CALL], [NO], TOOLS), ([user("hi?")], [assistant("hello")], [NO], [])]
    choices = ReadChoices(fixes=("tool-use",))
    data = loaded(tmp_path, json_lines(rows, (*HEADER, "tools")), choices)
    assert [pair.prompt for pair in data.pairs] == ["hi?"]


def test_equal_calls_carry_no_preference(tmp_path):
    with pytest.raises(DataError, match="chosen and rejected are the same"):
        loaded(tmp_path, json_lines([(ASKED, [CALL], [CALL])]))


@pytest.mark.skipif(not SHARED.is_file(), reason=f"the file with tools is not at {SHARED}")
def test_the_shared_file_gives_its_calls():
    pairs = load_preferences(SHARED).pairs
    assert len(pairs) == 24
    assert all(json.loads(pair.tool_use.chosen_calls)[0]["function"]["name"] == "look"
               for pair in pairs)  # fmt: skip
