"""Generation against plain HF `generate` and plain PEFT, on a tiny real Llama."""

import pytest
import torch
from dialogues import GREEDY, LONG, SHORT, make_gpt2
from tiny import make_tiny_tokenizer
from tuned import make_adapters_tell, with_two_adapters

from orpo_qlora.config import TrainConfig
from orpo_qlora.data.messages import Message
from orpo_qlora.errors import ConfigError, InputError
from orpo_qlora.models import loading
from orpo_qlora.models.generation import decode, generate
from orpo_qlora.models.generation.decode import adapters_by_row, fast_products, few_rows_linear
from orpo_qlora.models.generation.sampling import BASE, Conversation, Sampling


@pytest.fixture
def policy(tiny_model):
    return with_two_adapters(tiny_model)


def hf_answer(policy, tokenizer, turns, adapter, tokens=24):
    """Answers of transformers' own `generate`, one conversation at a time."""
    ids = torch.tensor([generate.prompt_ids(tokenizer, turns)])
    options = {
        "attention_mask": torch.ones_like(ids),
        "do_sample": False,
        "max_new_tokens": tokens,
        "pad_token_id": tokenizer.pad_token_id,
    }
    with torch.no_grad():
        if adapter == BASE:
            with policy.disable_adapter():
                new = policy.generate(input_ids=ids, **options)
        else:
            before = policy.active_adapter
            policy.set_adapter(adapter)
            new = policy.generate(input_ids=ids, **options)
            policy.set_adapter(before)
    return tokenizer.decode(new[0, ids.shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("turns", [(SHORT, SHORT), (SHORT, LONG), (LONG, SHORT)])
def test_greedy_columns_say_what_hf_generate_says_alone(policy, tokenizer, turns):
    asked = [Conversation(turns[0], BASE), Conversation(turns[1], "tuned")]
    answers = generate.answer_all(policy, tokenizer, asked, GREEDY)
    assert answers == [
        hf_answer(policy, tokenizer, turns[0], BASE),
        hf_answer(policy, tokenizer, turns[1], "tuned"),
    ]
    assert answers[0] != answers[1]


def test_a_padded_row_counts_its_positions_from_its_own_first_token(tokenizer):
    model = make_gpt2()
    asked = [Conversation(SHORT), Conversation(LONG)]
    together = generate.answer_all(model, tokenizer, asked, GREEDY)
    alone = [generate.answer_all(model, tokenizer, [one], GREEDY)[0] for one in asked]
    assert together == alone


def test_three_adapters_share_one_batch(policy, tokenizer):
    order = ["other", BASE, "tuned", "tuned", "other"]
    answers = generate.answer_all(
        policy, tokenizer, [Conversation(SHORT, name) for name in order], GREEDY
    )
    alone = {name: hf_answer(policy, tokenizer, SHORT, name) for name in set(order)}
    assert answers == [alone[name] for name in order]
    assert len(set(alone.values())) == 3


def test_a_prompt_longer_than_one_piece_reads_the_same(policy, tokenizer):
    long = (Message("user", "What is gravity? " * 120), *LONG[1:])
    assert len(generate.prompt_ids(tokenizer, long)) > 2 * generate.PREFILL_TOKENS
    asked = [Conversation(long, "tuned"), Conversation(SHORT, BASE)]
    assert generate.answer_all(policy, tokenizer, asked, GREEDY) == [
        hf_answer(policy, tokenizer, long, "tuned"),
        hf_answer(policy, tokenizer, SHORT, BASE),
    ]
    assert generate.answer_all(policy, tokenizer, asked[:1], GREEDY) == [
        hf_answer(policy, tokenizer, long, "tuned")
    ]


@pytest.mark.parametrize("length", [1, 12])
def test_logits_equal_plain_peft(policy, tokenizer, length):
    ids = torch.randint(3, 300, (3, length), generator=torch.Generator().manual_seed(0))
    names = [BASE, "tuned", "other"]
    with torch.no_grad():
        plain = policy(input_ids=ids, adapter_names=names).logits
        with fast_products(policy), adapters_by_row(policy, names) as model:
            ours = model(input_ids=ids).logits
        after = policy(input_ids=ids, adapter_names=names).logits
    torch.testing.assert_close(ours, plain, atol=1e-4, rtol=0)
    torch.testing.assert_close(after, plain, atol=1e-4, rtol=0)
    assert (plain[0] - plain[1]).abs().max() > 0.1


def test_a_bfloat16_model_with_a_float32_adapter_takes_the_short_path(policy, monkeypatch):
    for name, parameter in policy.named_parameters():
        if "lora_" not in name:
            parameter.data = parameter.data.bfloat16()
    ids = torch.randint(3, 300, (3, 12), generator=torch.Generator().manual_seed(0))
    names = [BASE, "tuned", "other"]
    with torch.no_grad():
        plain = policy(input_ids=ids, adapter_names=names).logits.float()
        monkeypatch.setattr(type(policy), "_enable_peft_forward_hooks", None)
        with adapters_by_row(policy, names) as model:
            ours = model(input_ids=ids).logits
    assert ours.dtype == torch.bfloat16
    assert (ours.float() - plain).norm() < 0.03 * plain.norm()
    assert (plain[0] - plain[1]).norm() > 0.3 * plain[0].norm()
    assert all(p.dtype == torch.float32 for n, p in policy.named_parameters() if "lora_" in n)


def test_layers_of_another_kind_go_through_peft_itself(policy, tokenizer, monkeypatch):
    expected = generate.answer_all(
        policy, tokenizer, [Conversation(SHORT, BASE), Conversation(LONG, "tuned")], GREEDY
    )
    for module in policy.modules():
        if hasattr(module, "lora_A"):
            module.__class__ = type("OtherLinear", (type(module),), {})
            break
    answers = generate.answer_all(
        policy, tokenizer, [Conversation(SHORT, BASE), Conversation(LONG, "tuned")], GREEDY
    )
    assert answers == expected


@pytest.mark.parametrize("fewest", [1, 4])
def test_few_rows_are_multiplied_to_the_same_result(monkeypatch, fewest):
    monkeypatch.setattr(decode, "fewest_transposed_rows", lambda: fewest)
    torch.manual_seed(0)
    plain = torch.nn.Linear(5, 7)
    for shape in ((2, 5), (2, 3, 5), (4, 5, 5), (1, 1, 5)):
        x = torch.randn(shape)
        torch.testing.assert_close(few_rows_linear(x, plain.weight, plain.bias), plain(x))
        torch.testing.assert_close(few_rows_linear(x, plain.weight), plain(x) - plain.bias)


@pytest.mark.parametrize("has_memory", [True, False])
def test_four_bit_policy_in_training_answers_like_plain_peft(
    tiny_model, tokenizer, monkeypatch, has_memory
):
    if not has_memory:
        monkeypatch.setattr(decode, "DEQUANTIZED_SHARE", 0)
    config = TrainConfig(model=str(tiny_model), lora_r=4)
    policy = loading.attach_new_adapter(loading.load_base(config.model), config)
    torch.manual_seed(2)
    make_adapters_tell(policy)
    policy.train()
    asked = [Conversation(SHORT, loading.ADAPTER), Conversation(LONG, BASE)]
    answers = generate.answer_all(policy, tokenizer, asked, GREEDY)
    assert policy.training
    assert not any("forward" in vars(module) for module in policy.modules())
    policy.eval()
    assert answers == [
        hf_answer(policy, tokenizer, SHORT, loading.ADAPTER),
        hf_answer(policy, tokenizer, LONG, BASE),
    ]


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(0.9, 0.8, 24, 5), Sampling(1.5, 1, 24, 5)])
def test_a_row_does_not_depend_on_its_neighbour(policy, tokenizer, sampling):
    mine = Conversation(SHORT, "tuned")
    alone = generate.answer_all(policy, tokenizer, [mine], sampling)
    beside = generate.answer_all(policy, tokenizer, [Conversation(LONG, BASE), mine], sampling)
    assert beside[1] == alone[0]


def test_the_same_seed_repeats_and_another_does_not(policy, tokenizer):
    asked = [Conversation(SHORT, BASE), Conversation(SHORT, BASE)]
    first = generate.answer_all(policy, tokenizer, asked, Sampling(1.0, 0.95, 24, 7))
    again = generate.answer_all(policy, tokenizer, asked, Sampling(1.0, 0.95, 24, 7))
    other = generate.answer_all(policy, tokenizer, asked, Sampling(1.0, 0.95, 24, 8))
    assert first == again
    assert first[0] == first[1], "the same model sees the same draws in both columns"
    assert other != first


def test_draws_follow_the_distribution():
    """Three tokens with probabilities 0.6, 0.3, 0.1; top-p 0.85 keeps the first two, 2 to 1."""
    logits = torch.tensor([[0.6, 0.3, 0.1]]).log()
    draws = torch.Generator().manual_seed(0)

    def shares(sampling, count=4000):
        tokens = [generate._draw(logits, draws, sampling)[0] for _ in range(count)]
        return [tokens.count(token) / count for token in range(3)]

    assert shares(Sampling(1.0, 1.0)) == pytest.approx([0.6, 0.3, 0.1], abs=0.03)
    assert shares(Sampling(1.0, 0.85)) == pytest.approx([2 / 3, 1 / 3, 0], abs=0.03)
    assert shares(Sampling(1.0, 0.5)) == [1, 0, 0]


def test_a_wide_nucleus_looks_at_the_whole_vocabulary():
    flat = torch.zeros(1, 1000)
    draws = torch.Generator().manual_seed(0)
    drawn = {generate._draw(flat, draws, Sampling(1.0, 0.9))[0] for _ in range(1200)}
    assert len(drawn) > generate.NUCLEUS_FIRST
    assert len(drawn) <= 901


def plain_draw(row, noise, sampling):
    """One row at a time, over the sorted vocabulary."""
    probabilities = torch.softmax(row.float() / sampling.temperature, -1)
    values, tokens = probabilities.sort(descending=True)
    kept = values.cumsum(0) - values < sampling.top_p
    return int(tokens[kept][(values[kept] / noise[tokens[kept]]).argmax()])


@pytest.mark.parametrize("top_p", [0.3, 0.95, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_draws_of_many_rows_are_those_of_each_row_alone(top_p, dtype):
    """Peaked and flat rows together, so that some need the whole vocabulary."""
    source = torch.Generator().manual_seed(4)
    logits = torch.randn(12, 2000, generator=source) * torch.linspace(0.5, 8, 12)[:, None]
    logits, sampling = logits.to(dtype), Sampling(0.7, top_p)
    drawn = generate._draw(logits, torch.Generator().manual_seed(1), sampling)
    noise = torch.empty(2000).exponential_(generator=torch.Generator().manual_seed(1))
    if dtype == torch.float32:  # in bfloat16 many logits are equal, and their order is free
        assert drawn == [plain_draw(row, noise, sampling) for row in logits]
    for row, token in zip(logits, drawn, strict=True):
        assert generate._draw(row[None], torch.Generator().manual_seed(1), sampling) == [token]


def hf_tokens(policy, tokenizer, turns):
    ids = torch.tensor([generate.prompt_ids(tokenizer, turns)])
    with torch.no_grad():
        new = policy.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24
        )
    return new[0, ids.shape[1] :].tolist()


def test_a_row_ends_at_the_end_of_turn_and_the_other_continues(policy, tokenizer):
    """A token of the base's answer that the tuned never generates becomes an end token."""
    with policy.disable_adapter():
        base = hf_tokens(policy, tokenizer, SHORT)
    tuned = hf_tokens(policy, tokenizer, LONG)
    place = next(i for i, token in enumerate(base) if i > 1 and token not in {*tuned, *base[:i]})
    policy.generation_config.eos_token_id = [policy.generation_config.eos_token_id, base[place]]
    asked = [Conversation(SHORT, BASE), Conversation(LONG, "tuned")]
    steps = list(generate.stream(policy, tokenizer, asked, GREEDY))
    assert [len(deltas) for deltas in steps] == [2] * (place + 1) + [1] * (23 - place)
    done = [delta for deltas in steps for delta in deltas if delta.is_done]
    assert [(delta.row, delta.is_cut) for delta in done] == [(0, False), (1, True)]
    assert generate.answer_all(policy, tokenizer, asked, GREEDY) == [
        tokenizer.decode(base[:place], skip_special_tokens=True),
        tokenizer.decode(tuned, skip_special_tokens=True),
    ]


def test_ends_are_the_models_the_tokenizers_and_the_templates(policy, tokenizer):
    policy.generation_config.eos_token_id = [5, 6]
    template = tokenizer.chat_template
    tokenizer.chat_template = template.replace("<|im_end|>", "<|endoftext|>")
    named = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert generate.end_ids(policy, tokenizer) == {5, 6, *named}
    tokenizer.chat_template = template


def test_stop_is_seen_between_tokens(policy, tokenizer):
    asked_for, steps = iter([False, False, False, True]), 0
    for _ in generate.stream(
        policy, tokenizer, [Conversation(SHORT, "tuned")], GREEDY, lambda: next(asked_for)
    ):
        steps += 1
    assert steps == 3


def test_stop_is_seen_while_a_long_prompt_is_read(policy, tokenizer):
    calls = []
    long = Conversation((Message("user", "What is gravity? " * 150),), "tuned")

    def should_stop():
        calls.append(1)
        return len(calls) == 2

    assert list(generate.stream(policy, tokenizer, [long], GREEDY, should_stop)) == []


def test_model_is_left_as_it_was_found(policy, tokenizer):
    policy.train()
    policy.base_model.model.model.norm.eval()
    modes = [module.training for module in policy.modules()]
    forwards = [module.forward for module in policy.modules()]
    loss = policy(input_ids=torch.tensor([[4, 5, 6]])).logits.sum()
    loss.backward()
    gradients = [p.grad.clone() for p in policy.parameters() if p.grad is not None]
    asked = [Conversation(SHORT, BASE), Conversation(SHORT, "tuned")]
    steps = generate.stream(policy, tokenizer, asked, GREEDY)
    next(steps)
    assert torch.is_grad_enabled()
    steps.close()
    generate.answer_all(policy, tokenizer, asked, GREEDY)
    assert [module.training for module in policy.modules()] == modes
    assert [module.forward for module in policy.modules()] == forwards
    after = [p.grad for p in policy.parameters() if p.grad is not None]
    assert len(after) == len(gradients)
    assert all(map(torch.equal, after, gradients))


def test_a_conversation_longer_than_the_context_says_so(policy, tokenizer):
    policy.config.max_position_embeddings = 40
    with pytest.raises(InputError, match="the model reads 40 at most"):
        generate.answer_all(
            policy, tokenizer, [Conversation((Message("user", "why " * 60),))], GREEDY
        )


def test_an_answer_ends_where_the_context_ends(policy, tokenizer):
    length = len(generate.prompt_ids(tokenizer, SHORT))
    policy.config.max_position_embeddings = length + 5
    steps = list(generate.stream(policy, tokenizer, [Conversation(SHORT)], GREEDY))
    assert len(steps) == 5
    assert steps[-1][0].is_cut


def test_a_template_that_refuses_is_a_clear_error(tokenizer):
    template = tokenizer.chat_template
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(InputError, match="System role not supported"):
        generate.prompt_ids(tokenizer, LONG)
    tokenizer.chat_template = template


@pytest.mark.parametrize(
    "text",
    [
        "Größe 🙂 東京 λ.",
        " leading space",
        "a\n\nb",
        "👩‍🚀 family",
        "\N{REPLACEMENT CHARACTER} real",
    ],
)
def test_text_streams_in_whole_characters(text):
    tokenizer = make_tiny_tokenizer(["nothing of this was learnt"], 300)
    stream = generate.TextStream(tokenizer)
    pieces = [stream.add(token) for token in tokenizer(text)["input_ids"]]
    pieces.append(stream.rest())
    assert "".join(pieces) == text
    if "\N{REPLACEMENT CHARACTER}" not in text:
        assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    assert len(pieces) > 4


def test_half_a_character_at_the_end_is_shown_as_such():
    tokenizer = make_tiny_tokenizer(["nothing"], 300)
    stream = generate.TextStream(tokenizer)
    shown = [stream.add(token) for token in tokenizer("a🙂")["input_ids"][:-1]]
    assert "".join(shown) == "a"
    assert stream.rest() == "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    "values", [{"temperature": -1}, {"top_p": 0}, {"top_p": 1.1}, {"max_tokens": 0}, {"seed": -1}]
)
def test_sampling_out_of_bounds_is_refused(values):
    with pytest.raises(ConfigError):
        Sampling(**values)
