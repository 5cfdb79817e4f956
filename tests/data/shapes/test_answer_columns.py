"""A preference is found in a row however it is laid out; a row that holds none says why."""

import json
from pathlib import Path

import pytest
from files import HEADER, assistant, json_lines, parquet, separated, system, user

from orpo_qlora.data.messages import Message
from orpo_qlora.data.pairs import PreferencePair, load_preferences, split_pairs
from orpo_qlora.errors import DataError, NeedsColumns

HARMLESS = Path(__file__).parents[3].parent / "shared/data/hh_rlhf_harmless.jsonl"
BEFORE = (Message("system", "be brief"), Message("user", "hi"), Message("assistant", "hello"))
PAIR = PreferencePair("why?", "because", "no idea", 1)
LONG = PreferencePair("why?", "because", "no idea", 1, BEFORE)
TALK = [system("be brief"), user("hi"), assistant("hello"), user("why?")]
GOOD, BAD = [assistant("because")], [assistant("no idea")]
DIALOGUE = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: why?\n\nAssistant: "


def dataset_of(tmp_path, rows, header=HEADER, write=json_lines):
    path = tmp_path / "data"
    content = write(rows, header)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_preferences(path)


@pytest.mark.parametrize("write", [json_lines, parquet])
@pytest.mark.parametrize(
    ("header", "row", "shape", "pair"),
    [
        pytest.param(HEADER, ("why?", "because", "no idea"), "text", PAIR, id="texts"),
        pytest.param(
            ("system", *HEADER), ("be brief", "why?", "because", "no idea"), "text",
            PreferencePair("why?", "because", "no idea", 1, BEFORE[:1]), id="system column",
        ),
        pytest.param(
            ("system", *HEADER), (" ", "why?", "because", "no idea"), "text", PAIR, id="no system",
        ),
        pytest.param(
            ("instruction", "input", "chosen", "rejected"),
            ("Translate.", "Hallo", "Hello", "Bye"), "text",
            PreferencePair("Translate.\n\nHallo", "Hello", "Bye", 1), id="Alpaca with input",
        ),
        pytest.param(
            ("instruction", "input", "chosen", "rejected"), ("Sing.", "", "La", "No"), "text",
            PreferencePair("Sing.", "La", "No", 1), id="Alpaca without input",
        ),
        pytest.param(HEADER, (TALK, GOOD, BAD), "messages", LONG, id="TRL, explicit prompt"),
        pytest.param(
            HEADER[1:], (TALK + GOOD, TALK + BAD), "messages", LONG, id="TRL, implicit prompt"
        ),
        pytest.param(
            ("prompt", "prompt_id", "chosen", "rejected", "score_chosen"),
            ("why?", "7", [user("why?"), *GOOD], [user("why?"), *BAD], 8.5), "messages", PAIR,
            id="UltraFeedback-binarized",
        ),
        pytest.param(
            HEADER, (TALK, TALK + GOOD, TALK + BAD), "messages", LONG, id="prompt repeated"
        ),
        pytest.param(
            HEADER, (TALK, TALK[-1:] + GOOD, TALK[-1:] + BAD), "messages", LONG, id="last repeated"
        ),
        pytest.param(HEADER, (TALK, "because", "no idea"), "messages", LONG, id="answers as text"),
        pytest.param(HEADER, ("why?", GOOD, BAD), "messages", PAIR, id="prompt as text"),
        pytest.param(
            ("system", *HEADER), ("be brief", TALK[1:], GOOD, BAD), "messages", LONG,
            id="system beside messages",
        ),
        pytest.param(
            ("system", *HEADER), ("be long", TALK, GOOD, BAD), "messages", LONG,
            id="system in the messages wins",
        ),
        pytest.param(HEADER, (TALK, GOOD[0], BAD[0]), "messages", LONG, id="one message each"),
        pytest.param(
            ("conversations", "chosen", "rejected"),
            (None, DIALOGUE + "because", DIALOGUE + "no idea"), "dialogue",
            PreferencePair("why?", "because", "no idea", 1, BEFORE[1:]), id="HH-RLHF",
        ),
        pytest.param(
            HEADER, (DIALOGUE, " because", " no idea"), "dialogue",
            PreferencePair("why?", " because", " no idea", 1, BEFORE[1:]), id="HH with a prompt",
        ),
    ],
)  # fmt: skip
def test_layouts_of_the_field_give_the_same_pair(tmp_path, write, header, row, shape, pair):
    dataset = dataset_of(tmp_path, [row], header, write)
    assert dataset.pairs == (pair,)
    assert dataset.report.shape == shape


def test_sharegpt_names_its_roles_otherwise(tmp_path):
    row = (
        [{"from": "system", "value": "be brief"}, {"from": "human", "value": "hi"},
         {"from": "gpt", "value": "hello"}, {"from": "human", "value": "why?"}],
        {"from": "gpt", "value": "because"},
        {"from": "gpt", "value": "no idea"},
    )  # fmt: skip
    assert dataset_of(tmp_path, [row]).pairs == (LONG,)


def test_content_in_parts_of_text_is_joined(tmp_path):
    parts = [{"type": "text", "text": "be"}, {"type": "text", "text": "cause"}]
    row = (TALK, [{"role": "assistant", "content": parts}], BAD)
    assert dataset_of(tmp_path, [row]).pairs == (LONG,)


@pytest.mark.parametrize("write_cell", [json.dumps, repr], ids=["JSON", "Python"])
@pytest.mark.parametrize("separator", [",", "\t"])
def test_message_lists_are_read_from_cells_of_separated_values(tmp_path, write_cell, separator):
    def write(rows, header):
        return separated([map(write_cell, row) for row in rows], header, separator)

    dataset = dataset_of(tmp_path, [(TALK, GOOD, BAD)], write=write)
    assert dataset.pairs == (LONG,)
    assert bool(dataset.report.finding("python-lists")) == (write_cell is repr)


def test_code_in_a_cell_is_never_run(tmp_path):
    calls = "[__import__('os').remove('x')]"
    rows = [(json.dumps(TALK), json.dumps(GOOD), json.dumps(BAD))] * 3
    rows.append((json.dumps(TALK), calls, json.dumps(BAD)))
    report = dataset_of(tmp_path, rows, write=separated).report
    assert [(drop.reason, drop.rows) for drop in report.drops] == [("no-messages", (4,))]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ((TALK, [user("because")], BAD), "bad-turns"),
        ((TALK, [*GOOD, user("and?")], [*BAD, user("and?")]), "bad-turns"),
        ((TALK, [*GOOD, *GOOD], [*GOOD, *BAD]), "bad-turns"),
        (([*TALK, user("again")], GOOD, BAD), "bad-turns"),
        (([user("hi"), system("late")], GOOD, BAD), "bad-turns"),
        (([], GOOD, BAD), "bad-turns"),
        ((TALK, [{"role": "tool", "content": "x"}], BAD), "bad-turns"),
        ((TALK, [{"role": "sphinx", "content": "x"}], BAD), "unknown-role"),
        ((TALK, [{"role": "assistant"}], BAD), "no-messages"),
        ((TALK, ["because"], BAD), "no-messages"),
        ((TALK, 7, BAD), "no-messages"),
        ((TALK, None, BAD), "no-messages"),
        (
            (TALK, [{"role": "assistant", "content": [{"type": "image", "url": "x"}]}], BAD),
            "media",
        ),
        ((TALK, [user("why?"), *GOOD], [user("how?"), *BAD]), "different-prompts"),
        ((TALK, [user("how?"), *GOOD], [user("how?"), *BAD]), "different-prompts"),
    ],
)
def test_row_without_a_preference_is_left_out_with_its_reason(tmp_path, row, reason):
    report = dataset_of(tmp_path, [(TALK, GOOD, BAD), (TALK, GOOD, BAD), row]).report
    assert [(drop.reason, drop.rows) for drop in report.drops] == [(reason, (3,))]
    assert report.rows_read == report.pairs + report.rows_dropped == 3


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        (DIALOGUE + "a", DIALOGUE.replace("why", "how") + "b", "different-prompts"),
        (DIALOGUE + "a", "b", "bad-turns"),
        (DIALOGUE + "a\n\nHuman: b", DIALOGUE + "c\n\nHuman: b", "bad-turns"),
        ("Hello. " + DIALOGUE + "a", "Hello. " + DIALOGUE + "b", "bad-turns"),
        (DIALOGUE + "a", DIALOGUE, "empty-rejected"),
    ],
)
def test_dialogue_without_a_preference_is_left_out(tmp_path, chosen, rejected, reason):
    good = (DIALOGUE + "yes", DIALOGUE + "no")
    report = dataset_of(tmp_path, [good, good, (chosen, rejected)], HEADER[1:]).report
    assert [(drop.reason, drop.rows) for drop in report.drops] == [(reason, (3,))]


def test_plain_answers_without_a_prompt_are_refused(tmp_path):
    with pytest.raises(NeedsColumns, match="no key “prompt”"):
        dataset_of(tmp_path, [("because", "no idea")], HEADER[1:])


def test_answers_that_begin_with_a_bracket_are_texts(tmp_path):
    rows = [("what?", "[1] a footnote", '{"a": 1}'), ("what?", '["x"]', "[")]
    assert [pair.chosen for pair in dataset_of(tmp_path, rows).pairs] == [row[1] for row in rows]


def test_very_long_python_lists_are_not_evaluated(tmp_path):
    cell = repr([assistant("x" * 1_100_000)])
    rows = [(json.dumps(TALK), json.dumps(GOOD), json.dumps(BAD))] * 2
    rows.append((json.dumps(TALK), cell, json.dumps(BAD)))
    assert dataset_of(tmp_path, rows, write=separated).report.drops[0].reason == "no-messages"


@pytest.mark.skipif(not HARMLESS.is_file(), reason=f"HH-RLHF is not at {HARMLESS}")
def test_real_dialogues_become_chats():
    dataset = load_preferences(HARMLESS)
    report = dataset.report
    assert (report.rows_read, report.shape) == (400, "dialogue")
    assert [(drop.reason, drop.rows) for drop in report.drops] == [("empty-chosen", (87,))]
    lines = [json.loads(line) for line in HARMLESS.read_text(encoding="utf-8").splitlines()]
    for pair in dataset.pairs:
        prompt = "".join(
            f"\n\n{'Human' if turn.role == 'user' else 'Assistant'}: {turn.content}"
            for turn in pair.conversation
        )
        whole = lines[pair.row - 1]
        for side in ("chosen", "rejected"):
            assert without_spaces(
                f"{prompt}\n\nAssistant: {getattr(pair, side)}"
            ) == without_spaces(whole[side])
    split = split_pairs(dataset.pairs, 0.1, seed=42)
    assert len(split.train) + len(split.held_out) == 399


def without_spaces(text):
    return "".join(text.split())


def test_refused_shape_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="no usable pair"):
        dataset_of(tmp_path, [([user("why?")], [user("a")], [user("b")])])
