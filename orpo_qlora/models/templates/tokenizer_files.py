"""What a tokenizer's files say about its chat template, without loading it. Floor 1; no torch."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from orpo_qlora.models.local_files import TOKENIZER_FILE, tokenizer_folder
from orpo_qlora.models.templates.chat_templates import IM_END, PROPOSED, TemplateInUse, label_of
from orpo_qlora.setting import CHAT_TEMPLATES
from orpo_qlora.storage import FileStamp

TEMPLATE_FILE = "chat_template.jinja"
TOKENIZER_DATA = "tokenizer.json"


def known_template(model: str, revision: str, chat_template: str) -> TemplateInUse | None:
    """Return which template a model gets; None until its tokenizer is on this disk."""
    folder = tokenizer_folder(model, revision)
    return template_in_use(folder, chat_template) if folder else None


def template_in_use(folder: Path, chat_template: str) -> TemplateInUse:
    """Return which template the tokenizer of a folder gets.

    The end-of-turn token is named for the built-in templates only: others must be rendered.
    """
    settings = _json(folder / TOKENIZER_FILE)
    is_base = not (settings.get("chat_template") or (folder / TEMPLATE_FILE).is_file())
    if chat_template not in CHAT_TEMPLATES:
        return TemplateInUse(name=label_of(chat_template), is_base=is_base)
    name = chat_template
    if chat_template == "auto":
        name = PROPOSED if is_base else ""
    end = _word(settings.get("eos_token")) if name else ""
    if name == "chatml" and has_token(folder, IM_END):
        end = IM_END
    return TemplateInUse(name=name, is_base=is_base, end=end)


def has_token(folder: Path, text: str) -> bool:
    """Whether a tokenizer was given this text as one token."""
    added = _json(folder / TOKENIZER_FILE).get("added_tokens_decoder")
    tokens = list(added.values()) if isinstance(added, dict) else []
    if not tokens:
        tokens = _json(folder / TOKENIZER_DATA).get("added_tokens") or []
    return any(_word(token) == text for token in tokens)


def _word(token: object) -> str:
    """Return the text of a token, which files hold as a text or an object."""
    return str(token.get("content") or "") if isinstance(token, dict) else str(token or "")


def _json(path: Path) -> dict[str, Any]:
    try:
        return _parsed(path, FileStamp.of(path))
    except (OSError, ValueError):
        return {}


@lru_cache(maxsize=16)
def _parsed(path: Path, stamp: FileStamp) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    content.pop("model", None)  # the vocabulary, which is most of it
    return content if isinstance(content, dict) else {}
