"""Prompt sets read from every kind of file, and answers written for AlpacaEval and FastChat."""

import csv
import json

import pytest

from orpo_qlora.data.messages import Message
from orpo_qlora.errors import DataError, InputError
from orpo_qlora.evaluation.answers import formats
from orpo_qlora.evaluation.answers.kept import Answer, AnswerSampling, KeptAnswers, policy_key
from orpo_qlora.evaluation.answers.prompts import held_out_prompts, read_prompts
from orpo_qlora.runs import store

MT_BENCH = [
    {"question_id": 81, "category": "writing", "turns": ["Write a line.", "Now shorter."]},
    {"question_id": 101, "category": "reasoning", "turns": ["2 + 2?"], "reference": ["4"]},
]


def read(tmp_path, text, name="prompts.jsonl"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return read_prompts(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "prompt\nWhy?\nHow?\n"),
        ("a.csv", "Instruction,other\nWhy?,x\nHow?,y\n"),
        ("a.jsonl", '{"prompt": "Why?"}\n{"prompt": "How?"}\n'),
        ("a.json", '[{"instruction": "Why?", "output": "x"}, {"instruction": "How?"}]'),
        ("a.jsonl", '{"turns": ["Why?"]}\n{"turns": ["How?"]}\n'),
        ("a.jsonl", '{"prompt": [{"role": "user", "content": "Why?"}]}\n'
                    '{"prompt": [{"role": "user", "content": "How?"}]}\n'),
    ],
    ids=["csv", "instruction", "jsonl", "alpaca", "turns", "messages"],
)  # fmt: skip
def test_prompts_are_read_from_every_kind_of_file(tmp_path, name, text):
    found = read(tmp_path, text, name)
    assert [prompt.text for prompt in found.prompts] == ["Why?", "How?"]
    assert found.name == name


def test_questions_of_fastchat_have_turns_categories_and_references(tmp_path):
    found = read(tmp_path, "".join(json.dumps(row) + "\n" for row in MT_BENCH))
    first, second = found.prompts
    assert first.questions == ("Write a line.", "Now shorter.")
    assert (first.id, first.category) == ("81", "writing")
    assert second.references == ("4",)
    assert found.categories == ("writing", "reasoning")
    assert [row["question_id"] for row in formats.question_rows(found)] == [81, 101]


@pytest.mark.parametrize("written", [json.dumps, repr])
def test_a_csv_holds_turns_references_and_messages_as_text(tmp_path, written):
    file = tmp_path / "a.csv"
    with file.open("w", newline="") as text:
        rows = csv.writer(text)
        rows.writerow(["turns", "reference"])
        rows.writerow([written(["Write a line.", "Now shorter."]), written(["One.", "Two."])])
        rows.writerow(["[sic] what?", "A text."])
        rows.writerow(["Plain?", "[1] A text."])
    with pytest.raises(DataError, match="row 2"):
        read_prompts(file)
    file.write_text("".join(file.read_text().splitlines(keepends=True)[i] for i in (0, 1, 3)))
    first, second = read_prompts(file).prompts
    assert first.questions == ("Write a line.", "Now shorter.")
    assert first.references == ("One.", "Two.")
    assert (second.questions, second.references) == (("Plain?",), ("[1] A text.",))
    with file.open("w", newline="") as text:
        csv.writer(text).writerows(
            [["prompt"], [written([{"role": "user", "content": "Why?"}])], ["[1, 2] summed?"]]
        )
    assert [one.text for one in read_prompts(file).prompts] == ["Why?", "[1, 2] summed?"]


def test_an_input_belongs_to_its_instruction(tmp_path):
    found = read(tmp_path, '{"instruction": "Add.", "input": "2, 3"}\n')
    assert found.prompts[0].text == "Add.\n\n2, 3"


def test_a_prompt_that_repeats_is_answered_once(tmp_path):
    found = read(tmp_path, "prompt\nWhy?\nWhy?\nHow?\n", "a.csv")
    assert (len(found.prompts), found.repeated) == (2, 1)


def test_a_limit_takes_turns_between_categories(tmp_path):
    rows = [{"prompt": f"{c}{i}", "category": c} for c in "ab" for i in range(3)]
    found = read(tmp_path, "".join(json.dumps(row) + "\n" for row in rows))
    assert [prompt.text for prompt in found.first(3).prompts] == ["a0", "a1", "b0"]
    assert found.first(0) == found.first(6) == found


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("prompt,x\nWhy?,1\n  ,2\n", "row 2"),
        ("question,answer\n,x\n", "row 1"),
        ("chosen,rejected\na,b\n", "no column of prompts"),
    ],
)
def test_a_file_without_usable_prompts_names_the_place(tmp_path, text, place):
    with pytest.raises(DataError, match=place) as caught:
        read(tmp_path, text, "a.csv")
    assert caught.value.hint


def test_messages_that_end_with_an_answer_are_refused(tmp_path):
    row = {"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    with pytest.raises(DataError, match="row 1"):
        read(tmp_path, json.dumps(row) + "\n")


def test_held_out_prompts_are_different(copied_run):
    pairs = store.held_out_pairs(copied_run.paths)
    found = held_out_prompts(copied_run)
    assert {prompt.text for prompt in found.prompts} == {pair.prompt for pair in pairs}
    assert len(found.prompts) + found.repeated == len(pairs)
    copied_run.paths.held_out.write_text("")
    with pytest.raises(InputError, match="no held-out prompts"):
        held_out_prompts(copied_run)


def answered(prompts):
    return {
        (prompt.key, sample): Answer(
            prompt=prompt.key,
            sample=sample,
            texts=tuple(f"{sample}: {text}" for text in prompt.questions),
            tokens=(3,) * len(prompt.questions),
            ended=(True,) * len(prompt.questions),
        )
        for prompt in prompts.prompts
        for sample in range(2)
    }


def test_answers_are_written_as_alpaca_eval_and_fastchat_read_them(tmp_path):
    prompts = read(tmp_path, "".join(json.dumps(row) + "\n" for row in MT_BENCH))
    by_system = [("my run/λ", answered(prompts))]
    files = formats.write_answers(tmp_path / "out", prompts, by_system, 1.5)
    assert [path.name for path in files] == ["question.jsonl", "my-run-λ.json", "my-run-λ.jsonl"]
    questions, alpaca, fastchat = (path.read_text(encoding="utf-8") for path in files)
    assert json.loads(alpaca)[0] == {
        "instruction": "Write a line.",
        "output": "0: Write a line.",
        "generator": "my run/λ",
        "dataset": "writing",
    }
    rows = [json.loads(line) for line in fastchat.splitlines()]
    assert rows[0]["question_id"] == 81
    assert rows[0]["choices"][1] == {"index": 1, "turns": ["1: Write a line.", "1: Now shorter."]}
    assert {"answer_id", "model_id", "tstamp"} < rows[0].keys()
    # What is written can be read as a prompt set again.
    assert [p.key for p in read(tmp_path, questions).prompts] == [p.key for p in prompts.prompts]


def test_kept_answers_survive_a_torn_line_and_are_not_doubled(tmp_path):
    prompts = read(tmp_path, "prompt\nWhy?\nHow?\n", "a.csv")
    answers = answered(prompts)
    kept = KeptAnswers(policy_key({"base": "x"}, AnswerSampling()))
    kept.add(list(answers.values())[:2])
    with kept.path.open("a") as file:
        file.write('{"prompt": "torn')
    kept.add(list(answers.values())[2:])
    assert kept.read() == answers


def test_the_key_depends_on_model_and_sampling_but_not_on_the_number_of_samples():
    one = policy_key({"base": "x"}, AnswerSampling(samples=1))
    assert one == policy_key({"base": "x"}, AnswerSampling(samples=5))
    others = [
        policy_key({"base": "y"}, AnswerSampling()),
        policy_key({"base": "x"}, AnswerSampling(seed=1)),
        policy_key({"base": "x"}, AnswerSampling(temperature=0)),
    ]
    assert len({one, *others}) == 4


def test_a_prompt_s_key_is_of_what_the_model_reads(tmp_path):
    plain = read(tmp_path, "prompt\nWhy?\n", "a.csv").prompts[0]
    assert plain.key == plain.model_copy(update={"id": "9", "category": "x"}).key
    longer = plain.model_copy(update={"opening": (Message("system", "Be brief."), *plain.opening)})
    assert longer.key != plain.key
    assert longer.whole_text == "system: Be brief.\n\nuser: Why?"


def test_messages_that_end_with_an_empty_one_are_refused(tmp_path):
    row = json.dumps({"prompt": [{"role": "user", "content": " "}]})
    with pytest.raises(DataError, match="no usable text"):
        read(tmp_path, row)
