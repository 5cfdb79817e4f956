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
    entry = find_model(model)
    if entry is DEMO and demo.is_prepared():
        return True
    if (Path(model).expanduser() / TOKENIZER_FILE).is_file():
        return True
    try:
        found = try_to_load_from_cache(
            entry.hub_id if entry else model, TOKENIZER_FILE, revision=revision or None
        )
    except HFValidationError:
        return False
    return isinstance(found, str)
