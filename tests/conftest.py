"""Every test gets a home folder of its own, a fixed seed and no hub."""

import os
import random

import pytest
from hypothesis import HealthCheck, settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["OMP_NUM_THREADS"] = "1"  # tiny models: a second thread costs more than it computes
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # importing its ORPO trainer warns that it may move

# The same examples every time, however slow the machine: a failure is never a matter of luck.
settings.register_profile(
    "suite", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")


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


def pytest_collection_modifyitems(items):
    """Begin with the longest files: of two processes none shall wait for the other in the end."""
    items.sort(key=lambda item: item.get_closest_marker("browser") is None)


@pytest.fixture(scope="session")
def demo_models(tmp_path_factory):
    """The folder of base models with the real demo model in it, converted once a session."""
    from orpo_qlora.models import convert

    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # of all processes; whoever comes first converts, the others wait
    shared = shared / "demo-home"
    shared.mkdir(mode=0o700, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORPO_QLORA_HOME", str(shared))
        convert.prepare_demo_model()
    return shared / "models"


@pytest.fixture
def demo_home(own_home, demo_models, monkeypatch):
    """A home of the test's own that already has the demo model; programs use every core."""
    monkeypatch.delenv("OMP_NUM_THREADS")
    own_home.mkdir(mode=0o700)
    (own_home / "models").symlink_to(demo_models)
    return own_home


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A folder with a tiny random chat model and a real tokenizer."""
    from tiny import make_tiny_model

    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny-llama")


@pytest.fixture(scope="session")
def ended_run(tiny_model, tmp_path_factory):
    """A finished run with its report card; whoever changes something takes `copied_run`."""
    from ended import TOKEN, evaluated_run

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORPO_QLORA_HOME", str(tmp_path_factory.mktemp("home-of-an-ended-run")))
        patch.setenv("HF_TOKEN", TOKEN)
        return evaluated_run(tiny_model)


@pytest.fixture
def copied_run(ended_run, own_home):
    """The same run in a home of the test's own."""
    from ended import copy_run

    return copy_run(ended_run, own_home)
