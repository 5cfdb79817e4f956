import re

import pytest
import yaml

from orpo_qlora.cli.options import parse_assignments
from orpo_qlora.config import (
    TrainConfig,
    build_config,
    setting_fields,
)
from orpo_qlora.errors import ConfigError
from orpo_qlora.presets import recipe_names
from orpo_qlora.shipped_presets import preset_names, read_preset


def test_lambda_is_spelt_as_people_spell_it():
    config = build_config({"lambda": "0.25"})
    assert config.lambda_ == 0.25
    assert yaml.safe_load(config.to_yaml())["lambda"] == 0.25
    assert "lambda" in setting_fields()


def test_settings_survive_yaml():
    config = build_config({"lambda": 1, "sample_prompts": ["a: b", "c"], "name": "λ = 1"})
    assert build_config(yaml.safe_load(config.to_yaml())) == config


def test_words_and_yamls_switches_mean_the_same():
    config = build_config(yaml.safe_load("activation_checkpointing: off\ndequant_cache: off"))
    assert config == build_config({"activation_checkpointing": "off", "dequant_cache": "off"})
    assert build_config({"activation_checkpointing": True}).activation_checkpointing == "on"
    assert build_config({"max_tokens_per_forward": "auto"}).max_tokens_per_forward == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lambda": 3}, "lambda = 3: input should be less than or equal to 2"),
        ({"lambda": "nan"}, "finite"),
        ({"lamda": 0.1}, "did you mean lambda?"),
        ({"epochs": 0}, "greater than 0"),
        ({"nll_on": "prompt"}, "'sequence' or 'answer'"),
        ({"model": ""}, "at least 1 character"),
        ({"pairs_per_step": 2.5}, "integer"),
    ],
)
def test_wrong_settings_are_named(settings, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        build_config(settings)


def test_all_wrong_settings_are_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        build_config({"lambda": -1, "epochs": -1, "hello": 1})
    assert all(name in caught.value.message for name in ("lambda", "epochs", "hello"))


def test_assignments_keep_text_and_read_numbers_and_lists():
    config = build_config(
        parse_assignments(["learning_rate=1e-4", "name=007", 'sample_prompts=["a", "b"]'])
    )
    assert config.learning_rate == 1e-4
    assert config.name == "007"
    assert config.sample_prompts == ("a", "b")
    with pytest.raises(ConfigError, match="not key=value"):
        parse_assignments(["lambda"])


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid_and_names_only_settings(name):
    assert isinstance(build_config(read_preset(name)), TrainConfig)


def test_presets_cover_the_promised_hardware():
    hardware = ["demo-cpu", "gpu-08gb", "gpu-16gb", "gpu-24gb", "gpu-80gb"]
    assert preset_names()[: len(hardware)] == hardware
    assert preset_names()[len(hardware) :] == recipe_names()


def test_an_unknown_preset_lists_the_known_ones():
    with pytest.raises(ConfigError, match="demo-cpu"):
        read_preset("huge")


def test_every_setting_has_label_help_and_group():
    for name, info in setting_fields().items():
        assert info.title, name
        assert info.description.endswith("."), name
        assert info.json_schema_extra["group"], name
