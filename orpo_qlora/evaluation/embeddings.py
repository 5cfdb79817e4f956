"""Embedders by name: `wordllama` offline, or a sentence-embedding model by id. Floor 5; no torch.

They are loaded by `embedding_models.py`: the page and the command line only check a name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from importlib.util import find_spec

import numpy as np

from orpo_qlora.errors import InputError
from orpo_qlora.evaluation.diversity import Embeddings

WORDLLAMA = "wordllama"

Embed = Callable[[Sequence[str]], Embeddings]
"""Texts, none of them blank, to rows of length 1."""


def is_installed(name: str) -> bool:
    """Whether an embedder can be loaded without installing a package."""
    return name != WORDLLAMA or find_spec(WORDLLAMA) is not None


def check_embedder(name: str) -> None:
    """Refuse an embedder that is not installed.

    Raises:
        InputError: names the package to install.
    """
    if not is_installed(name):
        raise InputError(
            "The package wordllama, which embeds answers offline, is not installed.",
            hint="Run: pip install 'orpo-qlora[eval]' — or name a sentence-embedding model: "
            "--embedder",
        )


def provenance(name: str) -> str:
    """Return what an embedder is, for the results."""
    if name != WORDLLAMA:
        return f"Embeddings: mean over the last hidden states of {name}."
    return (
        f"Embeddings: wordllama {version(WORDLLAMA)} (MIT), static token vectors in its wheel, "
        "derived from the input embeddings of Llama 2."
    )


def normalised(rows: Embeddings) -> Embeddings:
    """Return rows scaled to length 1; a row of zeros stays one."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1.0), dtype=np.float64)
