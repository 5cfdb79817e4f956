"""What was read once is not read again, and the answers stay those of a conversation read whole."""

import pytest
import torch
from dialogues import GREEDY, LONG, SHORT, make_gpt2
from transformers import DynamicCache, LlamaConfig
from tuned import with_two_adapters

from orpo_qlora.data.messages import Message
from orpo_qlora.models.generation import generate
from orpo_qlora.models.generation.prefixes import Opening, Prefix, Prefixes, cache_of, can_be_kept
from orpo_qlora.models.generation.sampling import BASE, Conversation


@pytest.fixture(scope="module")
def policy(tiny_model):
    return with_two_adapters(tiny_model)


def turns_after(turns, answer, message):
    return (*turns, Message("assistant", answer), Message("user", message))


@pytest.fixture
def fed(monkeypatch):
    """How many tokens a row each forward was given."""
    counts = []
    advance = generate._advance

    def counted(model, batch, should_stop):
        counts.append(batch.ids.shape[1])
        return advance(model, batch, should_stop)

    monkeypatch.setattr(generate, "_advance", counted)
    return counts


def alone(policy, tokenizer, asked):
    """What each conversation is answered when it is read whole, by itself."""
    return [generate.answer_all(policy, tokenizer, [one], GREEDY)[0] for one in asked]


def answers_of(policy, tokenizer, asked, prefixes):
    said = [""] * len(asked)
    for deltas in generate.stream(policy, tokenizer, asked, GREEDY, prefixes=prefixes):
        for delta in deltas:
            said[delta.row] += delta.text
    return said


def test_a_second_message_reads_only_what_is_new(policy, tokenizer, fed):
    prefixes = Prefixes()
    names = [BASE, "tuned", "other"]
    first = [Conversation(LONG, name) for name in names]
    said = answers_of(policy, tokenizer, first, prefixes)
    whole = len(generate.prompt_ids(tokenizer, LONG))
    assert fed[0] == whole
    fed.clear()
    second = [
        Conversation(turns_after(LONG, answer, "And why is that so?"), name)
        for answer, name in zip(said, names, strict=True)
    ]
    again = answers_of(policy, tokenizer, second, prefixes)
    longest = max(len(generate.prompt_ids(tokenizer, one.turns)) for one in second)
    # A token at the seam may be cut otherwise once words follow it.
    assert fed[0] <= longest - whole + 2
    assert again == alone(policy, tokenizer, second)
    assert again != said


def test_rows_that_know_more_less_and_nothing_share_a_batch(policy, tokenizer):
    prefixes = Prefixes()
    answers_of(policy, tokenizer, [Conversation(LONG, "tuned")], prefixes)
    answers_of(policy, tokenizer, [Conversation(SHORT, BASE)], prefixes)
    asked = [
        Conversation(turns_after(LONG, "Because.", "Is it?"), "tuned"),
        Conversation(turns_after(SHORT, "It pulls. " * 20, "Go on."), BASE),
        Conversation(LONG, "other"),
    ]
    assert [
        bool(prefixes.find(one.adapter, generate.prompt_ids(tokenizer, one.turns)).length > 3)
        for one in asked
    ] == [True, True, False]
    assert answers_of(policy, tokenizer, asked, prefixes) == alone(policy, tokenizer, asked)


def test_positions_continue_where_the_known_text_ends(tokenizer):
    model = make_gpt2()
    prefixes = Prefixes()
    (said,) = answers_of(model, tokenizer, [Conversation(SHORT)], prefixes)
    asked = [Conversation(turns_after(SHORT, said, "Why?")), Conversation(LONG)]
    known = answers_of(model, tokenizer, asked, prefixes)
    assert known == alone(model, tokenizer, asked)


def test_an_answer_that_was_stopped_is_known_as_far_as_it_was_read(policy, tokenizer, fed):
    prefixes = Prefixes()
    asks = iter([False] * 5 + [True])
    asked = [Conversation(LONG, "tuned")]
    steps = generate.stream(policy, tokenizer, asked, GREEDY, lambda: next(asks), prefixes)
    assert len(list(steps)) == 5
    (kept,) = prefixes._kept
    assert len(kept.ids) == len(generate.prompt_ids(tokenizer, LONG)) + 4
    assert kept.layers[0][0].shape[1] == len(kept.ids)
    fed.clear()
    known = answers_of(policy, tokenizer, asked, prefixes)
    assert fed[0] == 1, "the last token of a prompt is read again for its logits"
    assert known == alone(policy, tokenizer, asked)


def prefix(adapter, *ids, width=4):
    layer = torch.zeros(1, len(ids), width)
    return Prefix(adapter, ids, ((layer, layer.clone()),))


def test_only_the_same_adapter_and_the_same_tokens_are_known():
    prefixes = Prefixes()
    prefixes.keep(prefix("a", 1, 2, 3, 4))
    assert prefixes.find("a", [1, 2, 9, 9]).length == 2
    assert prefixes.find("a", [1, 2, 3]).length == 2, "one token is left to read"
    assert prefixes.find("b", [1, 2, 3]) == Opening()
    assert prefixes.find("a", [5, 6]) == Opening()


def test_a_longer_prefix_replaces_the_one_it_extends():
    prefixes = Prefixes()
    prefixes.keep(prefix("a", 1, 2))
    prefixes.keep(prefix("b", 1, 2))
    prefixes.keep(prefix("a", 1, 2, 3))
    assert [(kept.adapter, len(kept.ids)) for kept in prefixes._kept] == [("b", 2), ("a", 3)]


def test_memory_is_bounded_and_the_oldest_goes_first():
    one = prefix("a", 1, 2, 3)
    prefixes = Prefixes(most_bytes=2 * one.bytes)
    for start in (1, 5, 9):
        prefixes.keep(prefix("a", start, start + 1, start + 2))
    assert [kept.ids[0] for kept in prefixes._kept] == [5, 9]
    prefixes.keep(prefix("a", *range(100)))
    assert prefixes.bytes == 0, "a text that is too long alone is not kept"
    prefixes.keep(one)
    prefixes.clear()
    assert prefixes.find("a", [1, 2, 3]) == Opening()


def test_nothing_known_is_an_empty_cache():
    assert cache_of([Opening(), Opening()]).get_seq_length() == 0


@pytest.mark.parametrize(("kind", "is_kept"), [("default", True), ("dynamic", False)])
def test_positions_that_change_with_the_length_are_not_kept(kind, is_kept):
    cache = DynamicCache()
    cache.update(torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 2, 4), 0)
    ropes = {"rope_type": kind, "factor": 2.0, "rope_theta": 10000.0}
    assert can_be_kept(LlamaConfig(rope_parameters=ropes), cache) == is_kept


def test_a_sliding_window_is_not_kept():
    config = LlamaConfig(layer_types=["sliding_attention"], sliding_window=4, num_hidden_layers=1)
    cache = DynamicCache(config=config)
    cache.update(torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 2, 4), 0)
    assert not can_be_kept(config, cache)
