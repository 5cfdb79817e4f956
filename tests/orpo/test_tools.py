"""Tools and tool calls are rendered by the base model's chat template."""

import json
from pathlib import Path

import pytest
import trl
from tiny import make_tiny_tokenizer

from orpo_qlora.data.messages import Message, ToolUse
from orpo_qlora.data.pairs import PreferencePair
from orpo_qlora.errors import DataError
from orpo_qlora.models.generation.generate import prompt_ids
from orpo_qlora.models.templates import rendering
from orpo_qlora.orpo.rows.tokens import to_tokens, tokenize_pairs

TEMPLATE = (
    "{% if tools %}{{ '<|im_start|>system\n' }}"
    "{% for tool in tools %}{{ tool | tojson }}{{ '\n' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}"
    "{% if m.tool_calls %}{% for c in m.tool_calls %}"
    "{{ '<tool_call>' + ({'name': c.function.name, 'arguments': c.function.arguments} | tojson)"
    " + '</tool_call>' }}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TOOLS = json.dumps([{"type": "function", "function": {"name": "look"}}])
CALLS = json.dumps([{"type": "function", "function": {"name": "look", "arguments": {"q": "x"}}}])
STEPS = (Message("assistant", "", CALLS), Message("tool", "31", name="look"))
HEAD = '<|im_start|>system\n{"type": "function", "function": {"name": "look"}}\n<|im_end|>\n'
ASKED = "<|im_start|>user\nhi<|im_end|>\n"
CALL = '<tool_call>{"name": "look", "arguments": {"q": "x"}}</tool_call><|im_end|>'


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def texts(tokenizer, pair):
    [found] = to_tokens(tokenizer, [pair])
    return [tokenizer.decode(ids) for ids in (found.prompt, found.chosen, found.rejected)]


def test_a_call_is_trained_as_the_template_writes_it(tokenizer):
    pair = PreferencePair("hi", "", "no", 1, (), ToolUse(TOOLS, CALLS))
    assert texts(tokenizer, pair) == [
        f"{HEAD}{ASKED}<|im_start|>assistant\n", CALL, "no<|im_end|>",
    ]  # fmt: skip


def test_calls_and_results_before_the_response_are_part_of_the_prompt(tokenizer):
    pair = PreferencePair("hi", "warm", "no", 1, (), ToolUse(TOOLS, steps=STEPS))
    prompt, chosen, rejected = texts(tokenizer, pair)
    assert prompt == (
        f"{HEAD}{ASKED}<|im_start|>assistant\n{CALL}\n<|im_start|>tool\n31<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert (chosen, rejected) == ("warm<|im_end|>", "no<|im_end|>")


def test_an_open_answer_with_an_empty_thought_keeps_the_call(tokenizer):
    """As Qwen3: the generation prompt closes a thought that past answers do not have."""
    thinking = make_tiny_tokenizer()
    thinking.chat_template = TEMPLATE.replace("assistant\n' }}{% endif %}",
                                              "assistant\n<t></t>' }}{% endif %}")  # fmt: skip
    pair = PreferencePair("hi", "", "no", 1, (), ToolUse(TOOLS, CALLS))
    prompt, chosen, _ = texts(thinking, pair)
    assert prompt.endswith("assistant\n<t></t>")
    assert chosen.endswith('"arguments": {"q": "x"}}</tool_call><|im_end|>')


TRL_TEMPLATES = Path(trl.__file__).parent / "chat_templates"
QWEN_CALL = '<tool_call>\n{"name": "look", "arguments": {"q": "x"}}\n</tool_call><|im_end|>'


@pytest.mark.parametrize(
    ("name", "head", "call"),
    [
        ("qwen2_5", "<|im_start|>assistant\n", QWEN_CALL),
        ("qwen3", "<|im_start|>assistant\n<think>\n\n</think>\n\n", QWEN_CALL),
        ("llama3_1", "<|start_header_id|>assistant<|end_header_id|>\n\n",
         '{"name": "look", "parameters": {"q": "x"}}<|eot_id|>'),
        ("glm4moe", "<|assistant|>\n<think></think>",
         "\n<tool_call>look\n<arg_key>q</arg_key>\n<arg_value>x</arg_value>\n</tool_call>"),
    ],
)  # fmt: skip
def test_templates_of_well_known_models(name, head, call):
    """The last token is the tiny tokenizer's own where it does not have the template's."""
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = (TRL_TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    pair = PreferencePair("hi", "", "no", 1, (), ToolUse(TOOLS, CALLS))
    prompt, chosen, rejected = texts(tokenizer, pair)
    assert prompt.endswith(head)
    assert chosen.removesuffix("<|im_end|>") == call.removesuffix("<|im_end|>")
    assert "no" in rejected
    answered = PreferencePair("hi", "warm", "no", 1, (), ToolUse(TOOLS, steps=STEPS))
    prompt, chosen, _ = texts(tokenizer, answered)
    assert "31" in prompt
    assert "warm" in chosen


@pytest.mark.parametrize("name", ["gemma3", "phi3", "llama3"])
def test_templates_that_leave_tools_out_are_known(name):
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = (TRL_TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    assert not rendering.knows_tools(tokenizer)


def test_a_tool_that_lacks_what_the_template_writes_is_an_error_with_a_way_out():
    tokenizer = make_tiny_tokenizer()
    written = "tool.function.name + (tool.function.parameters | tojson)"
    tokenizer.chat_template = TEMPLATE.replace("tool | tojson", written)
    pair = PreferencePair("hi", "", "no", 1, (), ToolUse(TOOLS, CALLS))
    with pytest.raises(DataError, match="refuses all conversations") as caught:
        tokenize_pairs(tokenizer, [pair], 512, "drop")
    assert "give every tool a name, a description and parameters" in caught.value.hint


def test_samples_see_the_tools(tokenizer):
    ids = prompt_ids(tokenizer, [Message("user", "hi")], None, TOOLS)
    assert tokenizer.decode(ids) == f"{HEAD}{ASKED}<|im_start|>assistant\n"


def test_a_template_without_tools_is_refused_with_the_count_and_the_way_out():
    plain = make_tiny_tokenizer()
    assert not rendering.knows_tools(plain)
    pairs = [
        PreferencePair("hi", "", "no", 1, (), ToolUse(TOOLS, CALLS)),
        PreferencePair("hi", "yes", "no", 2),
    ]
    with pytest.raises(DataError, match="does not know tools, and 1 pair has") as caught:
        to_tokens(plain, pairs)
    assert "tool-use" in caught.value.hint
    assert [pair.row for pair in to_tokens(plain, pairs[1:])] == [2]
