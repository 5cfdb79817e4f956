"""The reference's log-probs of a run are found again by pairs, base and arithmetic alone."""

from types import SimpleNamespace

import pytest
import torch
from policies import random_pairs

from orpo_qlora.config import TrainConfig
from orpo_qlora.runs.identity import Identity
from orpo_qlora.runs.process.training_setup import reference_file

PAIRS = random_pairs(4)
IDENTITY = Identity(settings={}, data={}, model={"model.safetensors": "abc"})


def path_of(tmp_path, *, pairs=PAIRS, identity=IDENTITY, dtype=torch.float32, **settings):
    arithmetic = SimpleNamespace(dtype=dtype, device="cpu")
    base = SimpleNamespace(arithmetic=arithmetic)
    config = TrainConfig(method="dpo", **settings)
    return reference_file(config, base, identity, pairs, tmp_path / "copy").path


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ORPO_QLORA_HOME", str(tmp_path / "home"))


def test_split_seed_and_weights_of_the_loss_do_not_matter(tmp_path):
    wanted = path_of(tmp_path)
    assert path_of(tmp_path, pairs=PAIRS[::-1], seed=7, beta=0.5, learning_rate=1e-5) == wanted


@pytest.mark.parametrize(
    "change",
    [
        {"pairs": PAIRS[:3]},
        {"identity": IDENTITY.model_copy(update={"model": {"model.safetensors": "xyz"}})},
        {"dtype": torch.bfloat16},
        {"quantization": "none"},
        {"model": "another"},
        {"revision": "v2"},
    ],
    ids=str,
)
def test_another_base_arithmetic_or_pair_has_another_file(tmp_path, change):
    assert path_of(tmp_path, **change) != path_of(tmp_path)
