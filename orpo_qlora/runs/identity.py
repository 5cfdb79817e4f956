"""Identity of a training: settings, pairs and base model. Floor 3; no torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from orpo_qlora import storage
from orpo_qlora.config import TrainConfig

WITHOUT_EFFECT = {"name", "checkpoint_every", "report_to", "processes", "shard_base"}
"""Settings that change neither a step nor what is logged."""
MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model")
BLOCK_BYTES = 65_536
BLOCKS = 64


_DEFAULTS = TrainConfig().model_dump(mode="json", by_alias=True, exclude=WITHOUT_EFFECT)


class Identity(BaseModel):
    """What a checkpoint may be resumed with."""

    model_config = ConfigDict(frozen=True)

    settings: dict[str, object]
    data: dict[str, str]
    """SHA-256 of the training and the held-out pairs, by file name."""
    model: dict[str, str]
    """Fingerprint of each file of the base model; empty where the model was not read."""


def identity_of(config: TrainConfig, data: Path, model: Path | None = None) -> Identity:
    """Return the identity of a training from its settings, data folder and model folder."""
    settings = config.model_dump(mode="json", by_alias=True, exclude=WITHOUT_EFFECT)
    pairs = {path.name: storage.sha256_of(path) for path in sorted(data.glob("*.jsonl"))}
    return Identity(settings=settings, data=pairs, model=_fingerprints(model) if model else {})


def _fingerprints(folder: Path) -> dict[str, str]:
    found = sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern)})
    return {path.name: _fingerprint(path) for path in found}


def _fingerprint(path: Path) -> str:
    """Return a hash of a file's size and of blocks spread over it.

    Weights of many gigabytes are not read whole: another training changes every block of them.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    stride = max(BLOCK_BYTES, size // BLOCKS)
    with path.open("rb") as file:
        for start in range(0, size, stride):
            file.seek(start)
            digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()


def differences(then: Identity, now: Identity) -> list[str]:
    """Return a sentence for each difference; models are compared where both were read."""
    # A setting that did not exist yet had the effect of its default.
    before = _DEFAULTS | then.settings
    found = [
        f"{name} was {_shown(before.get(name))} and is {_shown(now.settings.get(name))}"
        for name in sorted(before.keys() | now.settings.keys())
        if before.get(name) != now.settings.get(name)
    ]
    found += [f"data/{change}" for change in _changed(then.data, now.data)]
    if then.model and now.model:
        found += [f"base model: {change}" for change in _changed(then.model, now.model)]
    return found


def _shown(value: object) -> str:
    return "not set" if value is None else json.dumps(value, ensure_ascii=False)


def _changed(then: dict[str, str], now: dict[str, str]) -> list[str]:
    changes = []
    for name in sorted(then.keys() | now.keys()):
        if name not in now:
            changes.append(f"{name} is missing")
        elif name not in then:
            changes.append(f"{name} is new")
        elif then[name] != now[name]:
            changes.append(f"{name} has changed")
    return changes
