"""Runs that can be chatted with."""

import time

import pytest
from tiny import make_tiny_model

from orpo_qlora.chat import client
from orpo_qlora.config import TrainConfig
from orpo_qlora.data.pairs import PreferencePair, Split
from orpo_qlora.data.report import DataReport
from orpo_qlora.runs import store
from orpo_qlora.runs.state import RunState


@pytest.fixture(scope="session")
def endless_model(tmp_path_factory):
    """A tiny model whose end tokens are never the likeliest, so that it talks until stopped."""
    import torch
    from safetensors.torch import load_file, save_file

    folder = make_tiny_model(tmp_path_factory.mktemp("endless"))
    weights = load_file(folder / "model.safetensors")
    # A zero row of the tied embedding has logit 0, and of 400 others one is always above.
    weights["model.embed_tokens.weight"][:3] = torch.zeros(3, 64)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def adapter_of(tmp_path_factory):
    """Return a function that writes an adapter for a model folder which changes its answers."""

    def write(model_folder, folder, seed=0):
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
        lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
        policy = get_peft_model(model, lora)
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        policy.save_pretrained(folder)

    return write


@pytest.fixture(scope="session")
def make_run(endless_model, adapter_of):
    """Return a function that makes a finished run on a model, with an adapter or without."""

    def make(model=endless_model, *, has_adapter=True, seed=0, name=""):
        pair = PreferencePair(prompt="hello", chosen="hi", rejected="go away", row=1)
        paths = store.create_run(
            TrainConfig(model=str(model), name=name),
            Split(train=(pair,), held_out=()),
            DataReport(source="toy.csv", sha256="0" * 64, rows_read=1, pairs=1),
        )
        if has_adapter:
            adapter_of(model, paths.adapter, seed)
        store.write_state(paths, RunState(status="finished", created_at=time.time()))
        return store.read_run(paths)

    return make


@pytest.fixture
def run(make_run):
    return make_run()


@pytest.fixture(scope="module")
def home_of_the_module(tmp_path_factory):
    """A home whose chat process is shared by a module's tests: it takes seconds to start."""
    home = tmp_path_factory.mktemp("home")
    yield home
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORPO_QLORA_HOME", str(home))
        client.release()


@pytest.fixture
def shared_home(own_home, home_of_the_module, monkeypatch):
    monkeypatch.setenv("ORPO_QLORA_HOME", str(home_of_the_module))
