"""The same numbers as TRL's trainers: nine architectures in float64, the demo model in float32."""

import json
import os
import shutil
from dataclasses import replace

import pytest
import torch
from policies import CONFIGS, VOCABULARY, make_policy, random_pairs, randomize_adapter
from tiny import make_tiny_tokenizer
from trl_step import assert_step_equals_trl

from orpo_qlora.config import TrainConfig
from orpo_qlora.data.examples import example_path
from orpo_qlora.data.pairs import load_preferences
from orpo_qlora.models.loading import attach_new_adapter, load_base
from orpo_qlora.orpo.loss import mismatch
from orpo_qlora.orpo.reference import digest_of
from orpo_qlora.orpo.rows.tokens import TokenizedPair, tokenize_pairs
from orpo_qlora.orpo.verify.parity import TOLERANCES
from orpo_qlora.orpo.verify.trl_steps import TRL_METHODS

FLOAT64 = TOLERANCES[torch.float64]


@pytest.mark.parametrize("name", CONFIGS)
def test_float64_step_equals_trl(name, whole_float64):
    policy = make_policy(name)
    # Two tokens at least: TRL's collation knows no shorter prompt.
    pairs = [p for p in random_pairs(9, seed=11) if len(p.prompt) > 1]
    assert_step_equals_trl(
        policy,
        make_tiny_tokenizer(),
        pairs,
        FLOAT64,
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "sft"},
        {"method": "simpo"},
        {"method": "simpo", "beta": 0.7, "gamma": 0.2, "label_smoothing": 0.1},
        {"method": "cpo"},
        {"method": "dpo"},
        {"method": "dpo", "beta": 0.5},
        {"method": "ipo"},
        {"method": "ipo", "beta": 0.8},
        {"method": "kto"},
        {"method": "kto", "beta": 0.5, "desirable_weight": 1.5, "undesirable_weight": 0.7},
        {"method": "cpo", "beta": 0.3, "cpo_alpha": 0.5, "label_smoothing": 0.2},
    ],
    ids=str,
)
def test_every_method_equals_its_trainer_in_trl(settings, whole_float64):
    policy = make_policy("qwen3")
    pairs = [p for p in random_pairs(9, seed=11) if len(p.prompt) > 1]
    config = TrainConfig(**settings)
    assert_step_equals_trl(policy, make_tiny_tokenizer(), pairs, FLOAT64, config)


@pytest.mark.parametrize("kto_loss", ["kto", "apo_zero_unpaired"])
def test_single_responses_equal_trl(kto_loss, whole_float64):
    config = TrainConfig(method="kto", desirable_weight=1.5, kto_loss=kto_loss)
    assert_step_equals_trl(make_policy("qwen3"), make_tiny_tokenizer(), singles(), FLOAT64, config)


def test_mismatched_single_responses_are_those_of_trl():
    """TRL rotates the responses of a batch by one, `[completions[-1]] + completions[:-1]`."""
    pairs = singles()
    responses = [pair.chosen or pair.rejected for pair in pairs]
    partners = mismatch(pairs, 1_000)
    found = [partners[digest_of(pair)] for pair in pairs]
    assert [one.chosen or one.rejected for one in found] == [responses[-1], *responses[:-1]]


def singles():
    pairs = [p for p in random_pairs(9, seed=11) if len(p.prompt) > 1]
    return [
        replace(pair, rejected=()) if place % 3 else replace(pair, chosen=())
        for place, pair in enumerate(pairs)
    ]


def test_rank_patterns_equal_trl(whole_float64):
    policy = make_policy(
        "qwen3",
        rank_pattern={"q_proj": 5, "down_proj": 1},
        alpha_pattern={"k_proj": 17},
    )
    assert_step_equals_trl(
        policy,
        make_tiny_tokenizer(),
        [p for p in random_pairs(9, seed=12) if len(p.prompt) > 1],
        FLOAT64,
    )


def test_one_token_answers_equal_trl(whole_float64):
    pairs = [
        TokenizedPair(p.prompt, p.chosen[:1], (p.chosen[0] + 1,), p.row)
        for p in random_pairs(9, seed=13)
        if len(p.prompt) > 1 and p.chosen[0] + 1 < VOCABULARY
    ]
    assert_step_equals_trl(
        make_policy("llama-tied"),
        make_tiny_tokenizer(),
        pairs,
        FLOAT64,
    )


@pytest.fixture(scope="module")
def shallow_demo(demo_models, tmp_path_factory):
    """A folder with the first four layers of the demo model; its weights are not copied."""
    source, folder = demo_models / "smollm2-135m-instruct", tmp_path_factory.mktemp("demo") / "four"
    shutil.copytree(source, folder, copy_function=os.symlink)
    config = json.loads((source / "config.json").read_text())
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))
    return folder


def assert_demo_step_equals_trl(config: TrainConfig, layers: int) -> None:
    """Compare a step of the beginnings of two pairs in float32."""
    base = load_base(config.model, quantization=config.quantization, compute_dtype="float32")
    assert len(base.model.model.layers) == layers
    policy = attach_new_adapter(base, config)
    randomize_adapter(policy, size=0.01)
    pairs = load_preferences(example_path("short_answers")).pairs[:2]
    tokenized = [
        replace(pair, chosen=pair.chosen[:9], rejected=pair.rejected[:12])
        for pair in tokenize_pairs(base.tokenizer, pairs, 512, "drop").pairs
    ]
    assert_step_equals_trl(policy, base.tokenizer, tokenized, TOLERANCES[torch.float32], config)


@pytest.mark.slow
@pytest.mark.parametrize("method", [method for method in TRL_METHODS if method != "orpo"])
def test_the_demo_model_equals_trl(shallow_demo, method):
    """Real weights, words and template; all thirty layers are in the test below."""
    config = TrainConfig(model=str(shallow_demo), method=method, quantization="none")
    assert_demo_step_equals_trl(config, layers=4)


@pytest.mark.slow
def test_nf4_step_equals_trl(demo_home):
    """All thirty layers in 4 bits."""
    assert_demo_step_equals_trl(TrainConfig(quantization="nf4"), layers=30)
