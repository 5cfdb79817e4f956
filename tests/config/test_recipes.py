"""Recipes: presets that name their data, and say where they are from and what they need."""

import pytest

from orpo_qlora import presets, shipped_presets
from orpo_qlora.config import build_config
from orpo_qlora.data.files.hub import request_of
from orpo_qlora.errors import ConfigError, InputError, ResourceError
from orpo_qlora.models.devices import needs as models_needs
from orpo_qlora.models.devices.machine import GIGABYTE, Gpu, Machine
from orpo_qlora.models.devices.needs import needs_of
from orpo_qlora.shipped_presets import read_preset

LAMBDAS = {
    "mistral-orpo-alpha": 0.1,
    "mistral-orpo-beta": 0.1,
    "llama-2-7b-orpo": 0.2,
    "phi-2-orpo": 0.25,
    "small-model-orpo": 0.5,
    "llama3-8b-chinese-chat": 0.05,
}
LAPTOP = Machine(cores=2, memory_bytes=8 * GIGABYTE)
SERVER = Machine(cores=8, memory_bytes=64 * GIGABYTE, gpu=Gpu("A100", 80 * GIGABYTE))
CARD = Machine(cores=8, memory_bytes=64 * GIGABYTE, gpu=Gpu("RTX 3050", 8 * GIGABYTE))


def test_recipes_have_the_authors_lambda():
    found = {name: build_config(read_preset(name)).lambda_ for name in presets.recipe_names()}
    assert found == LAMBDAS


@pytest.mark.parametrize("name", LAMBDAS)
def test_every_recipe_names_data_source_and_size(name):
    recipe = presets.read_recipe(name)
    assert request_of(recipe.data.id, recipe.data.config, recipe.data.split).id == recipe.data.id
    assert recipe.about.source.startswith("https://")
    assert recipe.about.title
    assert recipe.about.parameters_billion > 0
    text = shipped_presets.read_preset_file(name)
    assert set(text) == {"about", "data", *read_preset(name)}


def test_hardware_presets_and_own_ones_name_no_data():
    presets.save_preset("mine", build_config({}))
    for name in ("demo-cpu", "gpu-24gb", "mine"):
        assert presets.read_recipe(name) == presets.Recipe()


def test_a_preset_file_of_the_user_may_name_data(tmp_path):
    path = tmp_path / "ours.yaml"
    path.write_text("lambda: 0.3\ndata:\n  id: owner/name\n  split: dev\n")
    assert read_preset(str(path)) == {"lambda": 0.3}
    assert presets.read_file(path) == {"lambda": 0.3}
    assert presets.read_recipe(str(path)).data == presets.Recipe.Data(id="owner/name", split="dev")
    path.write_text("lambda: 0.3\ndata:\n  name: owner/name\n")
    with pytest.raises(ConfigError, match=r"data\.id, data\.name"):
        presets.read_recipe(str(path))


@pytest.mark.parametrize(
    ("billions", "machine", "warning"),
    [
        (7.24, SERVER, ""),
        (7.24, CARD, "8 GB of GPU memory: too little"),
        (7.24, LAPTOP, "8 GB of memory and no usable GPU: too little"),
        (2.78, LAPTOP, "training would take days"),
        (0.36, LAPTOP, ""),
    ],
)
def test_needs_are_compared_with_the_machine(billions, machine, warning):
    needs = needs_of("owner/model", billions, machine)
    assert f"owner/model has {billions} billion parameters" in needs.sentence
    assert "download" in needs.sentence
    assert (warning in needs.warning) if warning else not needs.warning


def test_several_gpus_may_hold_together_what_one_does_not(monkeypatch):
    monkeypatch.setattr(models_needs, "visible_gpus", lambda: 2)
    assert "Its 2 GPUs together may hold it" in needs_of("owner/model", 7.24, CARD).warning
    assert "together" not in needs_of("owner/model", 70.0, CARD).warning


def test_without_a_size_nothing_is_said():
    assert needs_of("owner/model", 0.0, LAPTOP) is None


@pytest.fixture
def asked(monkeypatch):
    """What the command line asks to be fetched; nothing is."""
    from orpo_qlora.cli import files

    requests = []

    def fetch(request, on_progress):
        requests.append(request)
        raise InputError("far enough")

    monkeypatch.setattr(files.job, "fetch", fetch)
    monkeypatch.setattr(files, "this_machine", lambda: SERVER)
    return requests


def train(*arguments):
    from typer.testing import CliRunner

    from orpo_qlora.cli.main import app

    return CliRunner().invoke(app, ["train", *arguments]).exception


def test_training_a_recipe_without_a_file_takes_its_data(asked):
    assert str(train("--preset", "mistral-orpo-alpha")) == "far enough"
    train("--preset", "mistral-orpo-alpha", "--split", "test_prefs", "--max-rows", "9")
    train("owner/other", "--preset", "mistral-orpo-alpha")
    assert [(one.id, one.split, one.max_rows) for one in asked] == [
        ("HuggingFaceH4/ultrafeedback_binarized", "train_prefs", 0),
        ("HuggingFaceH4/ultrafeedback_binarized", "test_prefs", 9),
        ("owner/other", "", 0),
    ]


def test_a_small_machine_says_so_before_anything_is_fetched(asked, monkeypatch):
    from orpo_qlora.cli import files

    monkeypatch.setattr(files, "this_machine", lambda: LAPTOP)
    error = train("--preset", "mistral-orpo-beta")
    assert isinstance(error, ResourceError)
    assert "too little" in error.message
    assert "ultrafeedback-binarized-preferences-cleaned" in error.hint
    assert asked == []
    # With another model, whose size is not known, the data is fetched.
    train("--preset", "mistral-orpo-beta", "--model", "smollm2-135m-instruct")
    assert len(asked) == 1


@pytest.mark.parametrize("arguments", [[], ["--preset", "demo-cpu"]])
def test_without_a_file_and_a_recipe_the_recipes_are_listed(arguments):
    error = train(*arguments)
    assert isinstance(error, InputError)
    assert "mistral-orpo-beta" in error.hint
