"""Every test gets a home folder of its own, a fixed seed and no hub."""

import os
import random

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # importing its ORPO trainer warns that it may move


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("ORPO_QLORA_HOME", str(tmp_path / "home"))
    random.seed(0)
    return tmp_path / "home"


@pytest.fixture
def whole_float64(monkeypatch):
    """Norms and rotary embeddings compute in float32 inside; here they too use float64.

    Without this a comparison in float64 measures those casts instead of the formula.
    """
    import torch

    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    monkeypatch.setattr(torch, "float32", torch.float64)
