"""Two columns of whole transcripts: the turns that both share become the prompt, as chat turns."""

import pytest
from files import json_lines, loaded, parquet, separated

from orpo_qlora.data.messages import Message
from orpo_qlora.data.pairs import PreferencePair
from orpo_qlora.data.shapes.base import RowFaultError
from orpo_qlora.data.shapes.content.transcripts import is_transcript, transcript_turns
from orpo_qlora.errors import DataError

COLUMNS = ("chosen", "rejected")
SYSTEM = (Message("system", "Be brief."),)
EARLIER = (Message("user", "Hi"), Message("assistant", "Hello\n\nthere"))
TALKS = {
    "Human and Assistant": (
        "\n\nHuman: Hi\n\nAssistant: Hello\n\nthere\n\nHuman: Why?\n\nAssistant: ", "", EARLIER,
    ),
    "ChatML": (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello\n\nthere<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
        "<|im_start|>assistant\n", "<|im_end|>\n", SYSTEM + EARLIER,
    ),
    "Llama 3": (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHello\n\nthere<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>", SYSTEM + EARLIER,
    ),
    "Zephyr": (
        "<|system|>\nBe brief.</s>\n<|user|>\nHi</s>\n<|assistant|>\nHello\n\nthere</s>\n"
        "<|user|>\nWhy?</s>\n<|assistant|>\n", "</s>\n", SYSTEM + EARLIER,
    ),
    "Gemma": (
        "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nHello\n\nthere"
        "<end_of_turn>\n<start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n",
        "<end_of_turn>\n", EARLIER,
    ),
    "Llama 2 or Mistral": (
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Hello\n\nthere </s>"
        "<s>[INST] Why? [/INST] ", " </s>", SYSTEM + EARLIER,
    ),
    "Llama 4": (
        "<|begin_of_text|><|header_start|>system<|header_end|>\n\nBe brief.<|eot|>"
        "<|header_start|>user<|header_end|>\n\nHi<|eot|><|header_start|>assistant<|header_end|>"
        "\n\nHello\n\nthere<|eot|><|header_start|>user<|header_end|>\n\nWhy?<|eot|>"
        "<|header_start|>assistant<|header_end|>\n\n", "<|eot|>", SYSTEM + EARLIER,
    ),
    "DeepSeek": (
        "<｜begin▁of▁sentence｜>Be brief.<｜User｜>Hi<｜Assistant｜>Hello\n\nthere"
        "<｜end▁of▁sentence｜><｜User｜>Why?<｜Assistant｜>", "<｜end▁of▁sentence｜>",
        SYSTEM + EARLIER,
    ),
    "Vicuna": (
        "A chat between a user and a helper. USER: Hi ASSISTANT: Hello\n\nthere</s>"
        "USER: Why? ASSISTANT: ", "</s>",
        (Message("system", "A chat between a user and a helper."), *EARLIER),
    ),
    "Alpaca": (
        "### System:\nBe brief.\n\n### Human:\nHi\n\n### Assistant:\nHello\n\nthere\n\n"
        "### Human:\nWhy?\n\n### Assistant:\n", "", SYSTEM + EARLIER,
    ),
    "lines with roles": (
        "System: Be brief.\nUser: Hi\nAssistant: Hello\n\nthere\nUser: Why?\nAssistant: ", "",
        SYSTEM + EARLIER,
    ),
}  # fmt: skip


@pytest.mark.parametrize("write", [json_lines, separated, parquet])
@pytest.mark.parametrize("markup", TALKS)
def test_common_turns_are_the_prompt(tmp_path, markup, write):
    before, end, earlier = TALKS[markup]
    row = (f"{before}Because.{end}", f"{before}No idea.{end}")
    data = loaded(tmp_path, write([row], COLUMNS))
    assert list(data.pairs) == [PreferencePair("Why?", "Because.", "No idea.", 1, earlier)]
    assert data.report.shape == "dialogue"
    assert f"Whole transcripts ({markup})" in " ".join(data.report.sentences())
    assert data.report.finding("templated") is None
    assert data.report.finding("special-tokens") is None


def test_one_turn_without_its_last_token_and_with_an_empty_system_message(tmp_path):
    start = "<|im_start|>system\n<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
    row = [f"{start}<|im_start|>assistant\n{text}" for text in ("Because. [x] <s>", "No idea.")]
    data = loaded(tmp_path, json_lines([row], COLUMNS))
    assert list(data.pairs) == [PreferencePair("Why?", "Because. [x] <s>", "No idea.", 1)]


def test_rows_that_are_no_preference_are_dropped_and_counted(tmp_path):
    question = "<|im_start|>user\nWhy?<|im_end|>\n"
    answers = [f"<|im_start|>assistant\n{text}<|im_end|>" for text in ("Because.", "No idea.")]
    good, bad = (question + answer for answer in answers)
    tool = good.replace("<|im_start|>user", "<|im_start|>tool\n4<|im_end|>\n<|im_start|>user")
    rows = [
        (good, bad),
        (good, bad.replace("Why", "How")),
        (good, "No idea."),
        (tool, tool),
        (good.replace("user", "narrator"), bad),
        (good, question),
        (good, bad),
        (good, bad),
    ]
    data = loaded(tmp_path, json_lines(rows, COLUMNS))
    assert [pair.row for pair in data.pairs] == [1, 7, 8]
    assert {drop.reason: drop.rows for drop in data.report.drops} == {
        "different-prompts": (2,),
        "bad-turns": (3, 6),
        "tool-calls": (4,),
        "unknown-role": (5,),
    }


@pytest.mark.parametrize(
    "text",
    ["", "Why?", "Say [INST] Why? [/INST] so", "<|im_start|>user\nWhy?", "[/INST] so", None, 3],
)
def test_texts_that_are_no_transcripts(text):
    assert not is_transcript(text)


def test_two_columns_of_plain_texts_have_no_prompt(tmp_path):
    with pytest.raises(DataError, match="prompt"):
        loaded(tmp_path, json_lines([("Because.", "No idea.")], COLUMNS))


def test_text_before_the_first_turn_is_an_error():
    with pytest.raises(RowFaultError):
        transcript_turns("Note: <|im_start|>user\nWhy?<|im_end|>")


VARIANTS = {
    "Human and Assistant without blank lines": ("Human: Why?\nAssistant: ", "\n"),
    "lower case": ("human: Why?\nassistant: ", ""),
    "Human and AI": ("Human: Why?\n\nAI: ", ""),
    "Chinese": ("用户：Why?\n助手：", ""),
    "Mistral": ("<s>[INST] Why? [/INST]", "</s>"),
    "Mistral v3": ("[INST] Why?[/INST] ", "</s>"),
    "Phi-4": ("<|im_start|>user<|im_sep|>Why?<|im_end|><|im_start|>assistant<|im_sep|>",
              "<|im_end|>"),
    "Phi-3": ("<|user|>\nWhy?<|end|>\n<|assistant|>\n", "<|end|>\n<|endoftext|>"),
    "OpenAssistant": ("<|prompter|>Why?<|endoftext|><|assistant|>", "<|endoftext|>"),
    "Alpaca": ("Below is an instruction that describes a task. Write a response.\n\n"
               "### Instruction:\nWhy?\n\n### Response:\n", ""),
    "Qwen": ("<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
             "<|im_end|>\n<|endoftext|>"),
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("header", [COLUMNS, ("prompt", *COLUMNS)])
def test_one_turn_in_a_template(tmp_path, name, header):
    before, end = VARIANTS[name]
    if len(header) == 2:
        row = (f"{before}Because.{end}", f"{before}No idea.{end}")
    else:
        row = (before, f"Because.{end}".rstrip("\n"), f"No idea.{end}".rstrip("\n"))
    data = loaded(tmp_path, json_lines([row], header))
    assert list(data.pairs) == [PreferencePair("Why?", "Because.", "No idea.", 1)]
    assert data.report.shape == "dialogue"


def test_input_section_of_alpaca_follows_the_instruction(tmp_path):
    before = "### Instruction:\nTranslate.\n\n### Input:\nHallo\n\n### Response:\n"
    data = loaded(tmp_path, json_lines([(f"{before}Hello", f"{before}Bye")], COLUMNS))
    assert list(data.pairs) == [PreferencePair("Translate.\n\nHallo", "Hello", "Bye", 1)]


def test_a_label_inside_a_response_with_blank_lines_is_no_turn(tmp_path):
    before = "\n\nHuman: Why?\n\nAssistant: "
    answer = "Like this:\nUser: hi\nAI: hello"
    data = loaded(tmp_path, json_lines([(before + answer, before + "No.")], COLUMNS))
    assert list(data.pairs) == [PreferencePair("Why?", answer, "No.", 1)]
