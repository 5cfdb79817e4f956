"""Long errors of the loading libraries, real ones, as one sentence each."""

import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from orpo_qlora.config import TrainConfig
from orpo_qlora.errors import UnsupportedModel
from orpo_qlora.models import loading
from orpo_qlora.models.load_errors import loading_errors, reason_of
from orpo_qlora.models.templates import tokenizers


@pytest.fixture
def model(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "my-model")


def configure(model, **values):
    config = json.loads((model / "config.json").read_text()) | values
    kept = {name: value for name, value in config.items() if value is not None}
    (model / "config.json").write_text(json.dumps(kept))


CASES = [
    (
        {"model_type": "t5"},
        "T5 is not a causal language model, which continues a text",
        "Choose a decoder-only language model, Llama or Qwen for instance.",
    ),
    (
        {"model_type": "vit"},
        "ViT is not a causal language model, which continues a text",
        "Choose a decoder-only language model, Llama or Qwen for instance.",
    ),
    (
        {"model_type": "frobnicate"},
        "the installed transformers does not know its type “frobnicate”",
        "Update transformers if the model is newer than it, or choose another model.",
    ),
    (
        {"model_type": None},
        "its config.json names no model_type",
        "Download the model again, or choose another.",
    ),
    (
        {"num_attention_heads": 7},
        "The hidden size (64) is not a multiple of the number of attention heads (7)",
        "Choose another model.",
    ),
    (
        {"hidden_size": 128},
        "its weights have other shapes than its settings describe",
        "Download the model again, or choose another.",
    ),
    (
        {"hidden_act": "nope"},
        "its settings hold the unknown value or key 'nope'",
        "Choose another model.",
    ),
]


@pytest.mark.parametrize(("values", "reason", "hint"), CASES)
def test_a_model_that_cannot_be_loaded_has_one_sentence_and_a_way_out(
    model, values, reason, hint, monkeypatch
):
    configure(model, **values)
    # The tokenizer needs the settings too and would fail first.
    monkeypatch.setattr(tokenizers, "load_tokenizer", lambda *_: None)
    with pytest.raises(UnsupportedModel) as caught:
        loading.load_base(str(model), quantization="none")
    assert caught.value.message == f"my-model cannot be loaded: {reason}."
    assert caught.value.hint == hint


def test_weights_in_another_quantisation_are_named():
    """The text is that of transformers 5.23."""
    text = "Loading an AWQ quantized model requires gptqmodel. Please install it with `pip ...`"
    reason = reason_of(ImportError(text))
    assert reason.text == "its weights are stored in AWQ, which cannot be read here"
    assert reason.hint == "Choose the original, unquantised version of the model."


def test_a_cut_weight_file_is_called_damaged(model):
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(UnsupportedModel) as caught:
        loading.load_base(str(model))
    assert caught.value.message == (
        "my-model cannot be loaded: a weight file is damaged or incomplete (incomplete metadata, "
        "file not fully covered)."
    )


def test_weights_that_are_in_no_file_are_never_made_up(model):
    """transformers fills them with random numbers and only prints a table."""
    weights = load_file(model / "model.safetensors")
    gone = [name for name in weights if "layers.1.mlp" in name]
    kept = {name: weight for name, weight in weights.items() if name not in gone}
    save_file(kept, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnsupportedModel) as caught:
        loading.load_base(str(model))
    assert caught.value.message == (
        "my-model is incomplete: none of its files has the weights "
        "model.layers.1.mlp.down_proj.weight and 2 others."
    )


def test_the_full_text_is_in_the_log_alone(caplog):
    page = "It failed. " + "Model type should be one of " + "SomeConfig, " * 300
    caplog.set_level(logging.INFO)
    with pytest.raises(UnsupportedModel) as caught, loading_errors("m cannot be loaded", "Wait."):
        raise ValueError(page)
    assert (caught.value.message, caught.value.hint) == ("m cannot be loaded: It failed.", "Wait.")
    assert page in caplog.text


def test_a_sentence_without_end_is_cut_at_a_word():
    text = reason_of(ValueError("word " * 200)).text
    assert len(text) < 170
    assert text.endswith("word …")


def test_unknown_lora_targets_are_one_sentence(tiny_model):
    base = loading.load_base(str(tiny_model))
    with pytest.raises(UnsupportedModel) as caught:
        loading.attach_new_adapter(base, TrainConfig(lora_targets="nothing_proj"))
    assert caught.value.message == (
        f"LoRA cannot be put on {tiny_model.name}: Target modules {{'nothing_proj'}} not found in "
        "the base model."
    )
    assert caught.value.hint == "Set the LoRA targets to all-linear."


def test_a_page_of_mismatched_shapes_is_one_sentence():
    layer = torch.nn.Linear(3, 3)
    with pytest.raises(RuntimeError) as caught:
        layer.load_state_dict({"weight": torch.zeros(2, 2), "bias": torch.zeros(3)})
    expected = "its weights have other shapes than its settings describe"
    assert reason_of(caught.value).text == expected
