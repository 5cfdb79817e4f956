"""Folders that would run code if anything did; each canary writes a file when it is unpickled."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from orpo_qlora.errors import CheckpointError, ModelNotFound, UnsupportedModel
from orpo_qlora.models import loading
from orpo_qlora.models.trust import refuse_unsafe_adapter, refuse_unsafe_base
from orpo_qlora.models.weights import find
from orpo_qlora.orpo import resume

WEIGHT_FILES = ("pytorch_model.bin", "model.pt", "adapter_model.bin", "training_args.bin")
STATE_FILES = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "scaler.pt")


class Canary:
    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.fixture
def canary(tmp_path):
    """Return the bytes of the pickle; whatever the test did, it must not have been read."""
    trace = tmp_path / "canary-sang"
    text = pickle.dumps(Canary(trace))
    pickle.loads(text)  # noqa: S301 - it sings when it is read
    assert trace.exists()
    trace.unlink()
    yield text
    assert not trace.exists(), "a pickle was read"


@pytest.fixture
def base_folder(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "base")


@pytest.fixture
def adapter(tiny_model, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    get_peft_model(model, lora).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def replace(path, content):
    """Put another file in its place: the old one may be mapped into memory."""
    path.unlink()
    path.write_bytes(content)


def change(path, **values):
    settings = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(settings | values))


@pytest.mark.parametrize("with_weights", [True, False])
def test_pickles_in_a_model_folder_are_not_read(base_folder, canary, with_weights):
    for name in (*WEIGHT_FILES, "tokenizer.pkl"):
        (base_folder / name).write_bytes(canary)
    if with_weights:
        loading.load_base(str(base_folder), quantization="none")
    else:
        (base_folder / "model.safetensors").unlink()
        with pytest.raises(UnsupportedModel, match="pickled weights are never loaded"):
            loading.load_base(str(base_folder))


def test_a_pickle_that_calls_itself_safetensors_is_not_read(base_folder, adapter, canary):
    base = loading.load_base(str(base_folder), quantization="none")
    replace(base_folder / "model.safetensors", canary)
    with pytest.raises(Exception, match=r"(?i)safetensors|header"):
        loading.load_base(str(base_folder), quantization="none")
    replace(adapter / "adapter_model.safetensors", canary)
    with pytest.raises(Exception, match=r"(?i)safetensors|header"):
        loading.attach_saved_adapter(base.model, adapter, "x")


def test_an_index_cannot_lead_to_a_pickle_or_out_of_its_folder(base_folder, canary, tmp_path):
    (base_folder / "shard.bin").write_bytes(canary)
    names = list(load_file(base_folder / "model.safetensors"))
    (base_folder / "model.safetensors").rename(base_folder / "a.safetensors")
    for file in ("shard.bin", "../base/a.safetensors", os.fspath(tmp_path / "a.safetensors")):
        index = {"metadata": {}, "weight_map": dict.fromkeys(names, file)}
        (base_folder / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(UnsupportedModel, match="no safetensors file of its folder"):
            loading.load_base(str(base_folder), quantization="none")


def test_pickles_beside_an_adapter_are_not_read(tiny_model, adapter, canary):
    for name in WEIGHT_FILES:
        (adapter / name).write_bytes(canary)
    base = loading.load_base(str(tiny_model), quantization="none")
    loading.attach_saved_adapter(base.model, adapter, "x")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelNotFound, match="no adapter"):
        loading.attach_saved_adapter(base.model, adapter, "y")


def test_pickles_in_a_checkpoint_are_not_read(tmp_path, canary):
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    folder = tmp_path / "step-1"
    folder.mkdir()
    progress = resume.Progress(step=1, tokens_per_forward=64)
    resume.capture(folder, progress, model, optimizer, scheduler)
    for name in STATE_FILES:
        (folder / name).write_bytes(canary)
    assert resume.restore(folder, model, optimizer, scheduler) == progress
    for name in (resume.WEIGHTS, resume.OPTIMIZER, resume.RANDOM, resume.PROGRESS):
        kept = (folder / name).read_bytes()
        (folder / name).write_bytes(canary)
        with pytest.raises(CheckpointError):
            resume.restore(folder, model, optimizer, scheduler)
        (folder / name).write_bytes(kept)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "processor_config.json"])
def test_code_of_a_model_is_not_run(base_folder, name):
    change(base_folder / name, auto_map={"AutoModelForCausalLM": "evil.Model"})
    (base_folder / "evil.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(UnsupportedModel, match="never run"):
        find.find_tokenizer(str(base_folder))


@pytest.mark.parametrize(
    "values",
    [
        {"_attn_implementation": "evil/kernel"},
        {"attn_implementation": "evil/kernel@main:attend"},
        {"_attn_implementation_internal": "evil/kernel"},
        {"_experts_implementation_internal": "evil/kernel"},
        {"text_config": {"attn_implementation": {"": "evil/kernel"}}},
    ],
)
def test_code_from_elsewhere_is_not_fetched(base_folder, values):
    change(base_folder / "config.json", **values)
    with pytest.raises(UnsupportedModel, match="never fetched"):
        find.find_weights(str(base_folder))


def test_plain_settings_are_fine(base_folder):
    change(base_folder / "config.json", attn_implementation="sdpa", auto_map=None)
    refuse_unsafe_base(base_folder)


def test_a_base_cannot_lead_to_another_base(base_folder, adapter):
    shutil.copy(adapter / "adapter_config.json", base_folder)
    with pytest.raises(UnsupportedModel, match="holds an adapter"):
        loading.load_base(str(base_folder))


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_broken_settings_are_a_clear_error(base_folder, name):
    (base_folder / name).write_text("{")
    with pytest.raises(UnsupportedModel, match="is no JSON"):
        find.find_tokenizer(str(base_folder))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "no LoRA adapter"),
        ({"peft_type": None}, "no LoRA adapter"),
        ({"auto_mapping": {"parent_library": "evil", "base_model_class": "X"}}, "import modules"),
        ({"auto_mapping": {"parent_library": "transformers_evil.x"}}, "import modules"),
        ({"megatron_config": {"x": 1}, "megatron_core": "evil.core"}, "import modules"),
    ],
)
def test_an_adapter_does_not_choose_what_is_imported(tiny_model, adapter, values, words):
    change(adapter / "adapter_config.json", **values)
    base = loading.load_base(str(tiny_model), quantization="none")
    with pytest.raises(UnsupportedModel, match=words):
        loading.attach_saved_adapter(base.model, adapter, "x")


def test_an_adapter_saved_without_a_task_is_fine(adapter):
    library = {"parent_library": "transformers.models.llama.modeling_llama"}
    change(adapter / "adapter_config.json", auto_mapping=library)
    refuse_unsafe_adapter(adapter)


def test_a_safe_index_still_loads(base_folder):
    weights = load_file(base_folder / "model.safetensors")
    (base_folder / "model.safetensors").unlink()
    file = "model-00001-of-00001.safetensors"
    save_file(weights, base_folder / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(weights, file)}
    (base_folder / "model.safetensors.index.json").write_text(json.dumps(index))
    loading.load_base(str(base_folder), quantization="none")
