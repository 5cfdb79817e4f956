"""Chat templates of models without one: exact text, ids and end of turn; limits of templates."""

import pytest
from tiny import make_base_model, make_sentencepiece_tokenizer, make_tiny_tokenizer

from orpo_qlora.config import TrainConfig, build_config
from orpo_qlora.data.messages import Message
from orpo_qlora.data.pairs import PreferencePair
from orpo_qlora.errors import ConfigError
from orpo_qlora.models.templates import chat_templates, rendering, tokenizer_files, tokenizers
from orpo_qlora.orpo.rows.tokens import to_tokens, tokenize_pairs
from orpo_qlora.setting import CHAT_TEMPLATES

SYSTEM, QUESTION, ANSWER = Message("system", "S"), Message("user", "Q"), Message("assistant", "A")
CHAT = (SYSTEM, QUESTION, ANSWER, Message("user", "R"))
PAIR = PreferencePair("hello there", "hi, nice to meet you", "leave me alone", 1)
ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately "
    "completes the request.\n\n### Instruction:\nhello there\n\n### Response:\n"
)
TEXTS = {  # (prompt of CHAT; prompt of PAIR; its chosen answer) where </s> ends a turn
    "chatml": (
        "<s><|im_start|>system\nS</s>\n<|im_start|>user\nQ</s>\n<|im_start|>assistant\nA</s>\n"
        "<|im_start|>user\nR</s>\n<|im_start|>assistant\n",
        "<s><|im_start|>user\nhello there</s>\n<|im_start|>assistant\n",
        "hi, nice to meet you</s>",
    ),
    "zephyr": (
        "<s><|system|>\nS</s>\n<|user|>\nQ</s>\n<|assistant|>\nA</s>\n<|user|>\nR</s>\n"
        "<|assistant|>\n",
        "<s><|user|>\nhello there</s>\n<|assistant|>\n",
        "hi, nice to meet you</s>",
    ),
    "llama2": (
        "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nQ [/INST] A </s><s>[INST] R [/INST]",
        "<s>[INST] hello there [/INST]",
        " hi, nice to meet you </s>",
    ),
    "mistral": (
        "<s>[INST] S\n\nQ [/INST] A</s>[INST] R [/INST]",
        "<s>[INST] hello there [/INST]",
        " hi, nice to meet you</s>",
    ),
    "alpaca": (
        "<s>S\n\n### Instruction:\nQ\n\n### Response:\nA</s>\n\n### Instruction:\nR\n\n"
        "### Response:\n",
        f"<s>{ALPACA}",
        "hi, nice to meet you</s>",
    ),
}
TEXTS["auto"] = TEXTS["chatml"]


def base_tokenizer(kind, chat_template):
    make = make_sentencepiece_tokenizer if kind == "sentencepiece" else make_tiny_tokenizer
    tokenizer = make()
    tokenizer.chat_template = None
    rendering.use_template(tokenizer, chat_template, "tiny")
    return tokenizer


@pytest.mark.parametrize("name", CHAT_TEMPLATES)
@pytest.mark.parametrize(("kind", "end"), [("sentencepiece", "</s>"), ("bpe", "<|im_end|>")])
def test_each_template_has_its_exact_text_and_ids(name, kind, end):
    tokenizer = base_tokenizer(kind, name)
    chat, prompt, chosen = TEXTS[name]
    if kind == "bpe":  # which begins no text with a token, and ends a sequence with <|im_end|>
        chat, prompt, chosen = (
            text.replace("<s>", "").replace("</s>", "<|im_end|>") for text in TEXTS[name]
        )
    assert rendering.render(tokenizer, CHAT, is_open=True) == chat
    pair = to_tokens(tokenizer, [PAIR])[0]
    whole = tokenizer(prompt + chosen, add_special_tokens=False)["input_ids"]
    assert list(pair.prompt) == tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert [*pair.prompt, *pair.chosen] == whole
    assert pair.chosen[-1] == pair.rejected[-1] == tokenizer.convert_tokens_to_ids(end)
    assert rendering.end_of_answer(tokenizer).token == pair.chosen[-1]


def test_words_of_chatml_that_are_no_tokens_are_spelled_with_those_there_are():
    tokenizer = base_tokenizer("sentencepiece", "auto")
    vocabulary = len(make_sentencepiece_tokenizer())
    assert len(tokenizer) == vocabulary
    ids = to_tokens(tokenizer, [PAIR])[0].prompt
    assert max(ids) < vocabulary
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids).startswith("<s>")


def test_an_end_of_turn_that_is_a_token_is_used_though_the_sequence_ends_otherwise():
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template, tokenizer.eos_token = None, "<|endoftext|>"
    rendering.use_template(tokenizer, "auto", "tiny")
    assert to_tokens(tokenizer, [PAIR])[0].chosen[-1] == tokenizer.convert_tokens_to_ids(
        "<|im_end|>"
    )
    tokenizer.chat_template = None
    rendering.use_template(tokenizer, "zephyr", "tiny")
    assert to_tokens(tokenizer, [PAIR])[0].chosen[-1] == tokenizer.eos_token_id


def test_auto_leaves_a_models_own_template_and_a_name_replaces_it(tiny_model):
    own = make_tiny_tokenizer().chat_template
    assert tokenizers.load_tokenizer(tiny_model).chat_template == own
    chosen = tokenizers.load_tokenizer(tiny_model, "alpaca")
    assert "### Instruction" in chosen.chat_template
    assert tokenizer_files.template_in_use(tiny_model, "auto").sentences("tiny") == []
    used = tokenizer_files.template_in_use(tiny_model, "alpaca")
    assert used.sentences("tiny") == [
        "Chat template: alpaca instead of the model's own; “<|im_end|>” ends each turn."
    ]


@pytest.mark.parametrize("name", CHAT_TEMPLATES)
@pytest.mark.parametrize("is_sentencepiece", [True, False])
def test_the_files_alone_give_what_the_loaded_tokenizer_does(tmp_path, name, is_sentencepiece):
    folder = make_base_model(tmp_path / "base", is_sentencepiece=is_sentencepiece)
    template = tokenizer_files.template_in_use(folder, name)
    tokenizer = tokenizers.load_tokenizer(folder, name)
    assert template == rendering.template_in_use(folder, tokenizer, name)
    assert template.is_base
    assert template.name == ("chatml" if name == "auto" else name)
    assert template.end == ("</s>" if is_sentencepiece else "<|im_end|>")


def test_a_base_model_is_said_to_be_one(tmp_path):
    folder = make_base_model(tmp_path / "base", is_sentencepiece=True)
    used = tokenizer_files.known_template(str(folder), "", "auto")
    assert used.sentences("Base 7B") == [
        "Base 7B is a base model without a chat template: chatml is used; “</s>” ends each turn.",
        "The NLL term has to teach the model this format too, so a small λ fits (0.1 to 0.25 in "
        "the paper).",
    ]
    assert used.note() == (
        "Chat template: chatml, since the model has none; “</s>” ends each turn."
    )
    assert tokenizer_files.known_template("owner/not-here", "", "auto") is None


ALTERNATING = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
    "{% elif (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}"
    "{% endif %}[{{ m.role }}] {{ m.content }}<|im_end|>{% endfor %}"
)
SILENT = (
    "{% for m in messages if m.role != 'system' %}[{{ m.role }}] {{ m.content }}<|im_end|>"
    "{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "earlier", "text", "moved", "joined"),
    [
        (ALTERNATING, (), "[user] hello there<|im_end|>", 0, 0),
        (ALTERNATING, (SYSTEM,), "[user] S\n\nhello there<|im_end|>", 1, 0),
        (ALTERNATING, (QUESTION,), "[user] Q\n\nhello there<|im_end|>", 0, 1),
        (
            ALTERNATING,
            (SYSTEM, QUESTION, QUESTION, ANSWER, ANSWER),
            "[user] S\n\nQ\n\nQ<|im_end|>[assistant] A\n\nA<|im_end|>[user] hello there<|im_end|>",
            1,
            1,
        ),
        (SILENT, (SYSTEM, QUESTION), "[user] S\n\nQ<|im_end|>[user] hello there<|im_end|>", 1, 0),
        (ALTERNATING, (Message("system", ""),), "[user] hello there<|im_end|>", 1, 0),
    ],
)
def test_refused_turns_are_moved_and_joined(template, earlier, text, moved, joined):
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = template
    pair = PreferencePair("hello there", "hi", "no", 1, earlier)
    found = tokenize_pairs(tokenizer, [pair], 512, "drop")
    assert tokenizer.decode(found.pairs[0].prompt) == text
    assert tokenizer.decode(found.pairs[0].chosen) == "[assistant] hi<|im_end|>"
    assert (found.changes.system_moved, found.changes.turns_joined) == (moved, joined)


def test_the_builtin_templates_take_what_their_models_take():
    for name, limits in {
        "chatml": (True, True),
        "llama2": (True, False),
        "mistral": (False, False),
    }.items():
        found = rendering.limits_of(base_tokenizer("bpe", name))
        assert (found.takes_system, found.takes_repeats) == limits


GOOD = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n{% endfor %}"


def test_a_template_file_is_recorded_as_its_text(tmp_path):
    path = tmp_path / "mine.jinja"
    path.write_text(GOOD)
    config = chat_templates.recorded(TrainConfig(chat_template=str(path)))
    assert config.chat_template == GOOD
    path.unlink()
    assert chat_templates.recorded(config) == config
    assert chat_templates.recorded(TrainConfig()) == TrainConfig()
    label = chat_templates.label_of(GOOD)
    assert label.startswith("custom (80 characters, SHA-256 ")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
        (b"x" * 70_000, "is too large for a chat template: more than 64 KiB"),
        (b" \n", "is empty"),
        (b"{% for m in messages %}{{ m.content }}", "is no Jinja template: .*line 1"),
        (b"hello {{ 1 }}", "does not render the user's message"),
        (b"{{ messages[0].content }}", "does not render the assistant's message"),
        (b"{{ raise_exception('never') }}", "cannot render a question and an answer: never"),
        (b"{{ messages.__class__.__mro__ }}", "cannot render .* unsafe"),
        (b"{% include '/etc/hostname' %}", "cannot render .* no loader"),
        (b"{{ 'x' * 10 ** 10 }}", "takes too much time or memory"),
        (
            b"{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "takes too much time or memory",
        ),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else None,
)
def test_a_file_that_is_no_usable_template_is_refused_with_a_way_out(tmp_path, content, words):
    path = tmp_path / "mine.jinja"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"mine.jinja .*{words}|{words}") as caught:
        chat_templates.recorded(TrainConfig(chat_template=str(path)))
    assert caught.value.hint


def test_a_value_that_is_no_template_is_refused():
    with pytest.raises(ConfigError, match=r"choose auto, chatml, .* or the path of a \.jinja file"):
        build_config({"chat_template": "chatlm"})
