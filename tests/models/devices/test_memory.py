"""Predicted bytes against what autograd keeps and what the weights take."""

import json

import pytest
import torch
from policies import CONFIGS, make_policy, random_pairs

from orpo_qlora.config import TrainConfig
from orpo_qlora.models.devices.memory import Room, choose_memory, footprint, read_shape, shape_of
from orpo_qlora.orpo.engine import build_engine
from orpo_qlora.orpo.rows.packing import Needs

RANK = 3  # of policies.make_policy


def kept_bytes_per_token(policy, pairs):
    """Bytes of the distinct tensors autograd keeps of a forward, weights aside."""
    engine = build_engine(policy, Needs(prompt=True, rejected=True), pairs)
    weights = {
        tensor.untyped_storage().data_ptr() for tensor in (*policy.parameters(), *policy.buffers())
    }
    kept = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        sums, tokens = engine.measure(pairs)
    assert sums.sums.requires_grad
    return sum(kept.values()) / tokens


@pytest.mark.parametrize("name", ["llama-tied", "llama-untied", "qwen2", "qwen3", "mistral-window"])
def test_predicted_activations_are_what_autograd_keeps(name):
    policy = make_policy(name, torch.float32)
    pairs = random_pairs(12, seed=3, longest=60)
    predicted = footprint(shape_of(CONFIGS[name].to_dict()), RANK, 4).per_token
    # Within a fifth: at 32 hidden units, small tensors such as rotary angles weigh in.
    assert kept_bytes_per_token(policy, pairs) == pytest.approx(predicted, rel=0.2)


@pytest.mark.parametrize("name", CONFIGS)
def test_counted_weights_are_the_models(name):
    shape = shape_of(CONFIGS[name].to_dict())
    model = make_policy(name, torch.float32).unload()
    linears = [m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    head = model.get_output_embeddings()
    counted = sum(linear.weight.numel() for linear in linears if linear is not head)
    assert shape.linear_weights == counted
    others = {model.get_input_embeddings().weight, head.weight}
    assert shape.other_weights == sum(weight.numel() for weight in others)


def test_adapter_weights_are_pefts():
    policy = make_policy("llama-tied")
    trained = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    assert shape_of(CONFIGS["llama-tied"].to_dict()).adapter_weights(RANK) == trained


def test_recomputing_keeps_less_a_token():
    shape = shape_of(CONFIGS["llama-tied"].to_dict() | {"num_hidden_layers": 24})
    assert footprint(shape, 8, 4, recomputes=True).per_token < (
        footprint(shape, 8, 4).per_token / 6
    )


def test_an_8b_model_in_4_bits_is_as_large_as_people_find_it():
    plan = footprint(shape_of(LLAMA_8B), 16, 2)
    # 6.98e9 linear weights in 4 bits, embedding and head in bfloat16 (2.1 GB).
    assert plan.weights == pytest.approx(5.7e9, rel=0.02)
    assert plan.adapter == pytest.approx(0.67e9, rel=0.02)


def test_tokens_within_is_the_inverse_of_the_peak():
    plan = footprint(shape_of(CONFIGS["qwen2"].to_dict()), 8, 4)
    tokens = plan.tokens_within(plan.above_weights(777))
    assert tokens == 777
    assert plan.tokens_within(0) == 0


def test_the_shape_comes_from_a_models_folder(tmp_path):
    nested = {"text_config": CONFIGS["qwen3"].to_dict(), "model_type": "any"}
    (tmp_path / "config.json").write_text(json.dumps(nested), encoding="utf-8")
    assert read_shape(tmp_path).layers == 2


def test_a_config_without_layers_is_refused():
    with pytest.raises(KeyError, match="hidden_size"):
        shape_of({"vocab_size": 5})


LLAMA_8B = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
}


def choose(free_gigabytes, device="cuda", longest=900, **settings):
    shape = shape_of(LLAMA_8B)
    room = Room(int(free_gigabytes * 1e9), device)
    return choose_memory(shape, TrainConfig(**settings), 2, room, longest)


def test_much_memory_needs_no_recomputing_and_keeps_weights_unpacked():
    choice = choose(140)
    assert choice.tokens == 8192
    assert not choice.recomputes
    assert choice.keeps_unpacked
    assert choice.predicted_bytes < 140e9


def test_little_memory_recomputes_and_takes_fewer_tokens():
    choice = choose(4)
    assert choice.recomputes
    assert not choice.keeps_unpacked
    assert 900 <= choice.tokens < 8192
    assert choice.predicted_bytes <= 4e9


def test_the_longest_pair_is_never_cut():
    assert choose(1, longest=3000).tokens == 3000


@pytest.mark.parametrize("free", [2, 5, 9, 14, 24, 50])
def test_the_prediction_stays_within_the_free_memory_where_a_pair_fits(free):
    choice = choose(free, longest=300)
    assert choice.tokens == 300 or choice.predicted_bytes <= free * 1e9


def test_explicit_settings_are_obeyed():
    choice = choose(
        4, max_tokens_per_forward=5000, activation_checkpointing="off", dequant_cache="all"
    )
    assert (choice.tokens, choice.recomputes, choice.keeps_unpacked) == (5000, False, True)
    assert choose(140, activation_checkpointing="on").recomputes
    assert not choose(140, dequant_cache="off").keeps_unpacked
    assert not choose(140, quantization="none").keeps_unpacked


def test_a_cpu_gains_nothing_from_more_tokens_or_unpacked_weights():
    choice = choose(500, device="cpu")
    assert choice.tokens == 1024
    assert not choice.keeps_unpacked


def test_the_sentence_says_what_was_chosen():
    assert choose(500, device="cpu").sentence().startswith("Memory: up to 1,024 tokens a forward")
    assert "activations recomputed" in choose(4).sentence()
