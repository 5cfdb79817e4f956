"""Runs that can be chatted with."""

import pytest
from tiny import make_endless_model
from tuned import make_finished_run, write_adapter

from orpo_qlora.chat import client


@pytest.fixture(scope="session")
def endless_model(tmp_path_factory):
    """A tiny model that talks until stopped."""
    return make_endless_model(tmp_path_factory.mktemp("endless"))


@pytest.fixture(scope="session")
def adapter_of():
    """Return a function that writes an adapter for a model folder which changes its answers."""
    return write_adapter


@pytest.fixture(scope="session")
def make_run(endless_model):
    """Return a function that makes a finished run on a model, with an adapter or without."""

    def make(model=endless_model, *, has_adapter=True, seed=0, name=""):
        return make_finished_run(model, has_adapter=has_adapter, seed=seed, name=name)

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
