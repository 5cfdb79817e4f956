"""Names of columns in any spelling: words for good and bad, system messages, earlier turns."""

import json

import pytest
from files import assistant, loaded, system, user

from orpo_qlora.data.messages import Message

Q, GOOD, BAD = "Why is the sky blue?", "Air scatters blue light.", "No idea."


def pairs(tmp_path, *rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    return loaded(tmp_path, text, name="data").pairs


@pytest.mark.parametrize(
    "names",
    [
        ("Prompt", "Chosen Response", "Rejected Response"),
        ("User Prompt", "chosen-response", "rejected-response"),
        ("userPrompt", "chosenResponse", "rejectedResponse"),
        ("input", "preferredOutput", "nonPreferredOutput"),
        ("prompt_text", "good_answer", "bad_answer"),
        ("question", "better_answer", "worse_answer"),
        ("question", "preferred_answer", "dispreferred_answer"),
        ("prompt", "preferred", "not_preferred"),
        ("prompt", "preferred_completion", "rejected_completion"),
        ("question", "correct_answer", "incorrect_answer"),
        ("prompt", "safe_response", "unsafe_response"),
        ("prompt", "win", "lose"),
        ("prompt", "best", "worst"),
        ("history", "y_w", "y_l"),
        ("context", "chosen", "rejected"),
    ],
)
def test_columns_are_found_by_their_words(tmp_path, names):
    [pair] = pairs(tmp_path, dict(zip(names, (Q, GOOD, BAD), strict=True)))
    assert (pair.prompt, pair.chosen, pair.rejected, pair.earlier) == (Q, GOOD, BAD, ())


@pytest.mark.parametrize("name", ["System Prompt", "systemPrompt", "system_instruction", "SYSTEM"])
@pytest.mark.parametrize("answers", ["pairs", "verdict", "messages"])
def test_a_system_message_is_found_in_every_shape(tmp_path, name, answers):
    row = {
        "pairs": {"prompt": Q, "chosen": GOOD, "rejected": BAD},
        "verdict": {"prompt": Q, "response_a": BAD, "response_b": GOOD, "winner": "b"},
        "messages": {"messages": [user(Q), assistant(GOOD)], "rejected_response": BAD},
    }[answers]
    [pair] = pairs(tmp_path, {name: "Be brief.", **row})
    assert pair.earlier == (Message("system", "Be brief."),)
    assert (pair.prompt, pair.chosen, pair.rejected) == (Q, GOOD, BAD)


@pytest.mark.parametrize("name", ["history", "chat_history", "previousTurns"])
@pytest.mark.parametrize(
    "turns",
    [
        [["Hi", "Hello"]],
        ["Hi", "Hello"],
        [user("Hi"), assistant("Hello")],
        [user("Hi"), assistant("Hello"), user(Q)],
    ],
)
@pytest.mark.parametrize("shape", ["pairs", "verdict", "ranking"])
def test_earlier_turns_are_never_lost(tmp_path, name, turns, shape):
    row = {
        "pairs": {"chosen": GOOD, "rejected": BAD},
        "verdict": {"response_a": BAD, "response_b": GOOD, "winner": "b"},
        "ranking": {"responses": [BAD, GOOD], "scores": [1, 2]},
    }[shape]
    [pair] = pairs(tmp_path, {"prompt": Q, name: turns, **row})
    assert pair.earlier == (Message("user", "Hi"), Message("assistant", "Hello"))
    assert (pair.prompt, pair.chosen, pair.rejected) == (Q, GOOD, BAD)


def test_a_history_that_the_responses_repeat_is_not_doubled(tmp_path):
    before = [system("Be brief."), user("Hi"), assistant("Hello"), user(Q)]
    row = {"chosen": [*before, assistant(GOOD)], "rejected": [*before, assistant(BAD)]}
    [pair] = pairs(tmp_path, {"history": before[:3], "prompt": Q, **row})
    assert [turn.content for turn in pair.earlier] == ["Be brief.", "Hi", "Hello"]


def test_a_context_with_roles_is_earlier_turns(tmp_path):
    row = {"context": [user("Hi"), assistant("Hello")], "chosen": GOOD, "rejected": BAD}
    [pair] = pairs(tmp_path, {"prompt": Q, **row})
    assert [turn.content for turn in pair.conversation] == ["Hi", "Hello", Q]


def test_a_category_of_tasks_is_no_prompt(tmp_path):
    rows = [{"task": "rewrite", "chosen": f"{Q} {GOOD}", "rejected": f"{Q} {BAD}"}]
    with pytest.raises(Exception, match="begin with the same text"):
        pairs(tmp_path, *rows)


def test_a_column_with_a_response_goes_before_one_with_the_name_of_a_model(tmp_path):
    row = {"winner": "m", "loser": "n", "winner_response": GOOD, "loser_response": BAD}
    [pair] = pairs(tmp_path, {"prompt": Q, **row})
    assert (pair.prompt, pair.chosen, pair.rejected) == (Q, GOOD, BAD)


@pytest.mark.parametrize("shape", ["pairs", "verdict", "ranking"])
def test_a_context_is_never_lost(tmp_path, shape):
    row = {
        "pairs": {"chosen": GOOD, "rejected": BAD},
        "verdict": {"response_a": BAD, "response_b": GOOD, "winner": "b"},
        "ranking": {"responses": [BAD, GOOD], "scores": [1, 2]},
    }[shape]
    turns = [user("Hi"), assistant("Hello")]
    [text] = pairs(tmp_path, {"prompt": Q, "context": "A long page.", **row})
    assert (text.prompt, text.chosen) == (f"{Q}\n\nA long page.", GOOD)
    first, second = pairs(
        tmp_path, {"prompt": Q, "context": turns, **row}, {"prompt": Q, "context": [], **row}
    )
    assert [turn.content for turn in first.conversation] == ["Hi", "Hello", Q]
    assert [turn.content for turn in second.conversation] == [Q]
