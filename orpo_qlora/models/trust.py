"""Refuses model and adapter folders that bring code, pickles or foreign files. Floor 1; no torch.

Weights are numbers; the settings beside them can run code. The loading libraries have guards of
their own, which have failed before, so these checks run first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orpo_qlora.errors import UnsupportedModel

SETTINGS = ("config.json", "tokenizer_config.json", "processor_config.json")
ADAPTER_SETTINGS = "adapter_config.json"
PICKLED_INDEX = "pytorch_model.bin.index.json"
OWN_PACKAGES = {"transformers", "peft"}


def refuse_unsafe_base(folder: Path) -> None:
    """Refuse a base model that needs its own code or names files outside its folder.

    Raises:
        UnsupportedModel: names what was found.
    """
    for name in SETTINGS:
        for key, value in _entries(_read(folder / name)):
            if key == "auto_map" and value:
                raise UnsupportedModel(
                    f"{folder.name} needs code from its own folder, which is never run.",
                    hint="Choose a model of an architecture that transformers ships.",
                )
            # An implementation with an owner's name is a kernel that is fetched and run.
            if "_implementation" in key and "/" in str(value):
                raise UnsupportedModel(
                    f"{folder.name} asks for code from elsewhere ({key}: {value}), which is never "
                    "fetched.",
                    hint=f"Take {key} out of its {name}, or choose another model.",
                )
    if (folder / ADAPTER_SETTINGS).exists():
        # The loading library would silently load the base named there instead.
        raise UnsupportedModel(
            f"{folder.name} holds an adapter, not a base model alone.",
            hint=f"Give the folder of the base model, or move {ADAPTER_SETTINGS} away.",
        )
    for index in folder.glob("*.safetensors.index.json"):
        for file in {str(name) for _, name in _entries(_read(index).get("weight_map", {}))}:
            if not file.endswith(".safetensors") or Path(file).name != file:
                raise UnsupportedModel(
                    f"{index.name} names {file!r}, which is no safetensors file of its folder.",
                    hint="Download the model again, or choose another.",
                )


def pickled_shards(folder: Path) -> list[Path]:
    """Return the pickled weight files of a base model in order; empty without any.

    Raises:
        UnsupportedModel: the index names a file elsewhere, or one that is missing.
    """
    index = _read(folder / PICKLED_INDEX).get("weight_map")
    if not isinstance(index, dict):
        return sorted(folder.glob("pytorch_model.bin"))
    shards = [folder / str(name) for name in sorted(set(map(str, index.values())))]
    for shard in shards:
        is_own = shard.parent == folder and shard.suffix == ".bin"
        if not is_own or not shard.is_file():
            raise UnsupportedModel(
                f"{PICKLED_INDEX} names {shard.name!r}, which is no weight file of its folder.",
                hint="Download the model again, or choose another.",
            )
    return shards


def refuse_unsafe_adapter(folder: Path) -> None:
    """Refuse an adapter that is no plain LoRA, or that names modules to import.

    Raises:
        UnsupportedModel: names what was found.
    """
    settings = _read(folder / ADAPTER_SETTINGS)
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise UnsupportedModel(
            f"{folder} holds no LoRA adapter but {kind!r}.", hint="Choose another run."
        )
    library = str((settings.get("auto_mapping") or {}).get("parent_library") or "transformers")
    if library.partition(".")[0] not in OWN_PACKAGES or settings.get("megatron_config"):
        raise UnsupportedModel(
            f"The adapter in {folder} asks to import modules of its choice, which is never done.",
            hint="Choose another run, or train it again.",
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as exc:
        raise UnsupportedModel(
            f"{path} is no JSON ({exc}).", hint="Download the model again, or choose another."
        ) from exc
    return settings if isinstance(settings, dict) else {}


def _entries(settings: dict[str, Any]) -> Iterator[tuple[str, object]]:
    """Yield every key with its value, nested settings included."""
    for key, value in settings.items():
        yield key, value
        if isinstance(value, dict):
            yield from _entries(value)
