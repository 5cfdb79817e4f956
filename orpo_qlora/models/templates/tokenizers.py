"""The tokenizer of a model folder, with the chat template in use. Floor 1."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from orpo_qlora.models.load_errors import loading_errors
from orpo_qlora.models.templates.rendering import use_template


def load_tokenizer(folder: Path, chat_template: str = "auto") -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model folder with the chat template that a setting asks for.

    Raises:
        ConfigError: a template file cannot be used.
        NoChatTemplate: the tokenizer has no token that could end a turn.
    """
    with loading_errors(f"The tokenizer of {folder.name} cannot be loaded"):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    use_template(tokenizer, chat_template, folder.name)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
