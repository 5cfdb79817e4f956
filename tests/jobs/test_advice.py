"""What to change: every advice is tried here, and what it promises holds."""

import dataclasses

import pytest

from orpo_qlora.config import TrainConfig
from orpo_qlora.jobs.advice import Question, changes_for_disk, changes_for_memory
from orpo_qlora.models.devices.memory import Room, shape_of

LLAMA_8B = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
}


def question(free_gigabytes, longest=900, **settings):
    room = Room(int(free_gigabytes * 1e9), "cuda")
    config = TrainConfig(model="llama-3.1-8b-instruct", **settings)
    return Question(shape_of(LLAMA_8B), config, 2, room, longest, fullest=100_000)


def advice(asked, longest_pair=800):
    return changes_for_memory(asked, longest_pair=longest_pair)


@pytest.mark.parametrize(
    ("settings", "free_gigabytes", "label"),
    [
        ({"max_tokens_per_forward": 60_000}, 12, "“Tokens per forward”"),
        ({"activation_checkpointing": "off"}, 8, "“Recompute activations”"),
        ({"dequant_cache": "all"}, 12, "“Cache dequantised weights”"),
        ({"quantization": "none"}, 12, "“Base weights”"),
    ],
)
def test_one_setting_too_greedy_is_named_alone(settings, free_gigabytes, label):
    asked = question(free_gigabytes, **settings)
    assert not asked.fits()
    lines = advice(asked)
    assert [sentence.partition(":")[0] for sentence in lines] == [label]
    assert question(free_gigabytes).fits()  # as advised, all of them have their default


def test_a_forward_holds_no_more_than_a_step_has():
    few = dataclasses.replace(question(12, max_tokens_per_forward=60_000), fullest=2000)
    assert few.fits()


def test_pairs_too_long_are_to_be_shorter_and_then_fit():
    asked = question(8, longest=9000)
    assert not asked.fits()
    (line,) = advice(asked, longest_pair=8000)
    length = int(line.partition("about ")[2].partition(" ")[0].replace(",", ""))
    assert 64 <= length < 8000
    assert question(8, longest=int(9000 * length / 8000)).fits()


def test_a_base_too_large_names_a_smaller_one_that_could_be_held():
    asked = question(4)
    assert not asked.fits()
    (line,) = advice(asked)
    assert line == "Choose a smaller base model, SmolLM2 1.7B Instruct for example."


def test_nothing_listed_is_small_enough():
    (line,) = advice(question(0.05))
    assert "no listed model fits" in line


def test_a_full_disk_says_how_much_to_free():
    lines = changes_for_disk(300_000_000, 100_000_000, TrainConfig())
    assert lines[0].startswith("Free 200 MB")
    assert "LoRA rank" in lines[1]
