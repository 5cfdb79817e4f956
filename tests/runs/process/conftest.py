"""A base model for runs whose sample answers matter little."""

import json

import pytest
from tiny import make_tiny_model


@pytest.fixture(scope="session")
def brief_model(tmp_path_factory):
    """The tiny model, every second token of which ends an answer: no run waits for 64 of them."""
    folder = make_tiny_model(tmp_path_factory.mktemp("brief") / "tiny-llama")
    file = folder / "generation_config.json"
    settings = json.loads(file.read_text(encoding="utf-8")) | {"eos_token_id": [*range(0, 400, 2)]}
    file.write_text(json.dumps(settings), encoding="utf-8")
    return folder
