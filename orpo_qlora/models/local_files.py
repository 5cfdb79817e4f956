"""Whether a base model's files are on this disk. Floor 1; no torch, no network."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from orpo_qlora.models import demo
from orpo_qlora.models.catalogue import DEMO, find_model

TOKENIZER_FILE = "tokenizer_config.json"


def has_tokenizer(model: str, revision: str = "") -> bool:
    """Whether a model's tokenizer can be loaded without a download or conversion."""
    return tokenizer_folder(model, revision) is not None


def tokenizer_folder(model: str, revision: str = "") -> Path | None:
    """Return the folder of a tokenizer on this disk, None without one."""
    entry = find_model(model)
    if entry is DEMO and demo.is_prepared():
        return demo.demo_folder()
    local = Path(model).expanduser()
    if (local / TOKENIZER_FILE).is_file():
        return local
    try:
        found = try_to_load_from_cache(
            entry.hub_id if entry else model, TOKENIZER_FILE, revision=revision or None
        )
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None
