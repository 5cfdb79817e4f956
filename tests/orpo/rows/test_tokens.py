from dataclasses import replace

import pytest
from tiny import make_tiny_tokenizer

from orpo_qlora.data.messages import Message
from orpo_qlora.data.pairs import PreferencePair
from orpo_qlora.errors import DataError
from orpo_qlora.models.templates.rendering import end_of_answer
from orpo_qlora.orpo.rows.tokens import tokenize_pairs

PAIR = PreferencePair("hello there", "hi, nice to meet you", "leave me alone", 7)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ 'model' if m.role == 'assistant' else"
    " m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }} <|im_end|>{% endif %}{% endfor %}"
)
NO_END = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think></think>{% endif %}"
)


@pytest.fixture
def tokenizer():
    return make_tiny_tokenizer()


def tokenize(tokenizer, pair=PAIR, max_length=512, over_length="drop"):
    return tokenize_pairs(tokenizer, [pair], max_length, over_length)


def test_ids_are_the_template_cut_at_the_end_of_turn(tokenizer):
    pair = tokenize(tokenizer).pairs[0]
    for answer, text in ((pair.chosen, PAIR.chosen), (pair.rejected, PAIR.rejected)):
        messages = [
            {"role": "user", "content": PAIR.prompt},
            {"role": "assistant", "content": text},
        ]
        whole = tokenizer.apply_chat_template(messages, tokenize=False)
        assert tokenizer.decode(pair.prompt + answer) == whole.removesuffix("\n")
        assert answer[-1] == tokenizer.eos_token_id
    assert pair.row == 7


@pytest.mark.parametrize("template", [GEMMA, LLAMA2, NO_END, THINKING])
def test_answers_end_with_the_end_of_turn_under_any_template(tokenizer, template):
    tokenizer.chat_template = template
    pair = tokenize(tokenizer).pairs[0]
    opened = tokenizer.apply_chat_template(
        [{"role": "user", "content": PAIR.prompt}], tokenize=False, add_generation_prompt=True
    )
    assert tokenizer.decode(pair.prompt) == opened
    assert PAIR.chosen in tokenizer.decode(pair.chosen)
    assert pair.chosen[-1] == pair.rejected[-1] == end_of_answer(tokenizer).token
    assert pair.chosen.count(end_of_answer(tokenizer).token) == 1


def test_pairs_that_fit_exactly_are_kept_and_longer_ones_dropped(tokenizer):
    longest = tokenize(tokenizer).pairs[0].longest
    assert tokenize(tokenizer, max_length=longest).dropped_rows == ()
    other = PreferencePair("a", "b", "c", 8)
    kept = tokenize_pairs(tokenizer, [PAIR, other], longest - 1, "drop")
    assert [pair.row for pair in kept.pairs] == [8]
    assert kept.dropped_rows == (7,)
    assert "1 pairs longer" in kept.sentence(longest - 1)


def test_cutting_the_prompt_keeps_both_answers_whole(tokenizer):
    whole = tokenize(tokenizer).pairs[0]
    cut = tokenize(tokenizer, max_length=whole.longest - 3, over_length="cut_prompt")
    assert cut.cut_rows == (7,)
    assert cut.pairs[0].prompt == whole.prompt[3:]
    assert cut.pairs[0].chosen == whole.chosen


def test_cutting_the_answers_keeps_the_prompt_whole(tokenizer):
    whole = tokenize(tokenizer).pairs[0]
    room = len(whole.prompt) + 4
    cut = tokenize(tokenizer, max_length=room, over_length="cut_answers").pairs[0]
    assert cut.prompt == whole.prompt
    assert (cut.chosen, cut.rejected) == (whole.chosen[:4], whole.rejected[:4])


@pytest.mark.parametrize("over_length", ["drop", "cut_prompt", "cut_answers"])
def test_nothing_left_is_an_error_with_a_way_out(tokenizer, over_length):
    with pytest.raises(DataError, match="longer than 5 tokens"):
        tokenize(tokenizer, max_length=5, over_length=over_length)


def test_answers_that_become_identical_by_cutting_are_dropped(tokenizer):
    same = PreferencePair("hi", "hello hello hello one", "hello hello hello two", 3)
    whole = tokenize(tokenizer, same).pairs[0]
    with pytest.raises(DataError):
        tokenize(tokenizer, same, len(whole.prompt) + 2, "cut_answers")


EARLIER = (Message("system", "be kind"), Message("user", "who are you"), Message("assistant", "me"))


def test_earlier_turns_are_rendered_as_turns_of_the_chat(tokenizer):
    pair = tokenize(tokenizer, replace(PAIR, earlier=EARLIER)).pairs[0]
    opened = tokenizer.apply_chat_template(
        [
            {"role": "system", "content": "be kind"},
            {"role": "user", "content": "who are you"},
            {"role": "assistant", "content": "me"},
            {"role": "user", "content": PAIR.prompt},
        ],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert tokenizer.decode(pair.prompt) == opened
    plain = tokenize(tokenizer).pairs[0]
    assert (pair.chosen, pair.rejected) == (plain.chosen, plain.rejected)


PARTICULAR = (
    "{% for m in messages %}{% if m.content == 'bad' %}{{ raise_exception('no bad words') }}"
    "{% endif %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
)


def test_conversations_that_the_template_refuses_are_dropped_and_counted(tokenizer):
    tokenizer.chat_template = PARTICULAR
    pairs = [replace(PAIR, row=1), replace(PAIR, prompt="bad", row=2), replace(PAIR, row=3)]
    pairs.append(replace(PAIR, rejected="bad", row=4))
    found = tokenize_pairs(tokenizer, pairs, 512, "drop")
    assert [pair.row for pair in found.pairs] == [1, 3]
    assert found.refused_rows == (2, 4)
    assert found.changes.sentences() == [
        "The chat template refuses 2 conversations, which are left out: rows 2, 4 (no bad words)."
    ]
    assert found.pairs[0] == tokenize_pairs(tokenizer, pairs[:1], 512, "drop").pairs[0]
    with pytest.raises(DataError, match="refuses all conversations: no bad words"):
        tokenize_pairs(tokenizer, pairs[1:2], 512, "drop")


NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
)


def test_a_refused_system_message_begins_the_first_user_turn_and_is_counted(tokenizer):
    tokenizer.chat_template = NO_SYSTEM
    pairs = [replace(PAIR, earlier=EARLIER), PAIR]
    found = tokenize_pairs(tokenizer, pairs, 512, "drop")
    assert tokenizer.decode(found.pairs[0].prompt) == (
        "user: be kind\n\nwho are you<|im_end|>assistant: me<|im_end|>user: hello there<|im_end|>"
    )
    assert (found.changes.system_moved, found.changes.turns_joined) == (1, 0)
    assert found.changes.sentences() == [
        "The chat template takes no system message: it is put in front of the first user turn in "
        "1 pair."
    ]


def test_a_conversation_that_no_change_fits_is_a_data_error(tokenizer):
    tokenizer.chat_template = (
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('a user begins') }}{% endif %}{{ m.content }}<|im_end|>{% endfor %}"
    )
    with pytest.raises(DataError, match="refuses all conversations: a user begins") as caught:
        tokenize(tokenizer, replace(PAIR, earlier=(Message("assistant", "me"),)))
    assert "begin with a user message" in caught.value.hint
