import pytest

from orpo_qlora.config import TrainConfig
from orpo_qlora.runs.identity import BLOCK_BYTES, BLOCKS, differences, identity_of


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"prompt": "a"}\n')
    (folder / "held_out.jsonl").write_text("")
    return folder


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(3 * BLOCK_BYTES * BLOCKS))
    (folder / "README.md").write_text("not part of it")
    return folder


def test_the_same_training_has_no_differences(data, model):
    first = identity_of(TrainConfig(name="one"), data, model)
    (model / "README.md").write_text("still not part of it")
    assert differences(first, identity_of(TrainConfig(name="two"), data, model)) == []


def test_every_difference_is_named(data, model):
    then = identity_of(TrainConfig(), data, model)
    (data / "train.jsonl").write_text('{"prompt": "b"}\n')
    (model / "config.json").write_text('{"hidden_size": 8}')
    (model / "tokenizer.json").write_text("{}")
    now = identity_of(TrainConfig(seed=7, lambda_=0.3), data, model)
    assert differences(then, now) == [
        "lambda was 0.1 and is 0.3",
        "seed was 42 and is 7",
        "data/train.jsonl has changed",
        "base model: config.json has changed",
        "base model: tokenizer.json is new",
    ]


def test_another_method_is_named(data):
    then = identity_of(TrainConfig(), data)
    now = identity_of(TrainConfig(method="dpo"), data)
    assert differences(then, now) == ['method was "orpo" and is "dpo"']


def test_a_setting_that_did_not_exist_yet_had_its_default(data):
    now = identity_of(TrainConfig(), data)
    older = {name: value for name, value in now.settings.items() if name not in {"method", "beta"}}
    then = now.model_copy(update={"settings": older})
    assert differences(then, now) == []
    assert differences(then, identity_of(TrainConfig(method="dpo"), data))


def test_other_weights_of_the_same_size_are_another_model(data, model):
    then = identity_of(TrainConfig(), data, model)
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[::BLOCK_BYTES] = b"\1" * len(weights[::BLOCK_BYTES])
    (model / "model.safetensors").write_bytes(weights)
    now = identity_of(TrainConfig(), data, model)
    assert differences(then, now) == ["base model: model.safetensors has changed"]


def test_a_model_nobody_looked_at_is_not_compared(data, model):
    then = identity_of(TrainConfig(), data, model)
    assert differences(then, identity_of(TrainConfig(), data)) == []


def test_a_setting_that_an_older_version_lacked_counts_as_its_default(data, model):
    then = identity_of(TrainConfig(), data, model)
    older = {name: value for name, value in then.settings.items() if name != "chat_template"}
    then = then.model_copy(update={"settings": older})
    assert differences(then, identity_of(TrainConfig(), data, model)) == []
    now = identity_of(TrainConfig(chat_template="zephyr"), data, model)
    assert differences(then, now) == ['chat_template was "auto" and is "zephyr"']
