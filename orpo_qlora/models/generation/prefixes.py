"""Keys and values kept for the next message of a conversation. Floor 1.

Tokens of earlier turns have the same keys and values when the next message is answered, so only
new tokens are processed. A conversation is recognised by its token ids and its adapter alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer

KEPT_BYTES = 512 * 2**20
"""Memory limit; the least recently used conversation is dropped first."""
CHANGING_ROPES = {"dynamic", "longrope"}
"""Position embeddings under which a key depends on the length of the whole text."""


@dataclass(frozen=True)
class Prefix:
    """Token ids of a conversation, with one adapter's keys and values."""

    adapter: str
    ids: tuple[int, ...]
    layers: tuple[tuple[Tensor, Tensor], ...]
    """Keys and values of each layer, (heads, tokens, width)."""

    @property
    def bytes(self) -> int:
        """Memory of the keys and values."""
        return sum(kept.nbytes for pair in self.layers for kept in pair)

    def common(self, ids: Sequence[int]) -> int:
        """Return the length of the common prefix with other ids."""
        pairs = zip(self.ids, ids, strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


@dataclass(frozen=True)
class Opening:
    """Number of cached tokens at the start of a prompt, and the prefix that has them."""

    length: int = 0
    prefix: Prefix | None = None


class Prefixes:
    """Prefixes of the latest conversations, within a memory limit."""

    def __init__(self, most_bytes: int = KEPT_BYTES) -> None:
        self._most_bytes = most_bytes
        self._kept: list[Prefix] = []
        """Most recently used last."""

    @property
    def bytes(self) -> int:
        """Memory of all prefixes."""
        return sum(prefix.bytes for prefix in self._kept)

    def find(self, adapter: str, ids: Sequence[int]) -> Opening:
        """Return the longest cached beginning of a prompt, always without its last token."""
        best = Opening()
        for prefix in self._kept:
            length = min(prefix.common(ids), len(ids) - 1) if prefix.adapter == adapter else 0
            if length > best.length:
                best = Opening(length, prefix)
        return best

    def keep(self, prefix: Prefix) -> None:
        """Store a prefix; it replaces the ones that it extends."""
        self._kept = [
            kept
            for kept in self._kept
            if kept.adapter != prefix.adapter or kept.common(prefix.ids) < len(kept.ids)
        ]
        self._kept.append(prefix)
        while self.bytes > self._most_bytes:
            del self._kept[0]

    def clear(self) -> None:
        """Drop all prefixes."""
        self._kept.clear()


def can_be_kept(config: PretrainedConfig, cache: DynamicCache) -> bool:
    """Whether a prefix has the same keys and values in every longer text, one per token."""
    ropes: Any = getattr(config.get_text_config(), "rope_parameters", None) or {}
    nested = [ropes, *(rope for rope in ropes.values() if isinstance(rope, dict))]
    if any(rope.get("rope_type") in CHANGING_ROPES for rope in nested):
        return False
    return all(type(layer) is DynamicLayer and layer.is_initialized for layer in cache.layers)


def cache_of(openings: Sequence[Opening]) -> DynamicCache:
    """Return a cache with the openings, one row each, left-padded."""
    longest = max(opening.length for opening in openings)
    known = next((opening.prefix for opening in openings if opening.prefix), None)
    cache = DynamicCache()
    if known is None:
        return cache
    for place, (keys, values) in enumerate(known.layers):
        cache.update(
            _stacked([_side(opening, place, 0) for opening in openings], keys, longest),
            _stacked([_side(opening, place, 1) for opening in openings], values, longest),
            place,
        )
    return cache


def _side(opening: Opening, place: int, side: int) -> Tensor | None:
    if opening.prefix is None:
        return None
    return opening.prefix.layers[place][side][:, : opening.length]


def _stacked(rows: Sequence[Tensor | None], like: Tensor, longest: int) -> Tensor:
    stacked = like.new_zeros((len(rows), like.shape[0], longest, like.shape[2]))
    for place, row in enumerate(rows):
        if row is not None:
            stacked[place, :, longest - row.shape[1] :] = row
    return stacked


def prefix_of(
    adapter: str, ids: Sequence[int], cache: DynamicCache, row: int, read: Tensor
) -> Prefix:
    """Return the prefix of one row of a batch.

    Args:
        adapter: the row's adapter.
        ids: the row's tokens, as many as are in the cache.
        cache: keys and values of all rows.
        row: index of the row.
        read: (tokens in the cache,), nonzero for the row's tokens, 0 for padding.
    """
    places = torch.nonzero(read).squeeze(1)
    return Prefix(
        adapter,
        tuple(ids),
        tuple((layer.keys[row][:, places], layer.values[row][:, places]) for layer in cache.layers),
    )
