"""Attention over segments of a packed row: no padding, no masked block computed. Floor 2.

Registered with transformers under `NAME`. A model whose layers forward keyword arguments hands
`segments` to `segment_attention`; without them it is plain SDPA, so the same model also generates.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.bias import causal_lower_right
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

from orpo_qlora.models.grouped_keys import plain_attention, repeated, takes_shared_keys
from orpo_qlora.orpo.kernels import varlen
from orpo_qlora.orpo.rows.packing import Segment

NAME = "orpo_segments"

UNUSED_MASK_SHAPE = (1, 1, 1, 1)
"""A 4-D mask of any size stops transformers 5 from building one. Without it, masks are derived from
`position_ids`, which for a branched row cuts the rejected response off from its prompt."""

Kernel = Literal["varlen", "lower_right", "masks"]
KERNELS: dict[Kernel, str] = {
    "varlen": "one flash call over all segments",
    "lower_right": "a call for each segment, causal from its last token",
    "masks": "a call for each segment, with a mask where it has a prefix",
}
"""`masks` runs on every device and is what the others are compared with. Windows and capped scores
take masks where a kernel does not have them."""


def kernels(device: torch.device, dtype: torch.dtype) -> tuple[Kernel, ...]:
    """Return the kernels that a device may have, fastest first.

    The start-up check decides which of them gives the right numbers.
    """
    if device.type != "cuda":
        return ("masks",)
    if varlen.kernel is None or dtype not in (torch.float16, torch.bfloat16):
        return ("lower_right", "masks")
    return ("varlen", "lower_right", "masks")


def segment_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,  # noqa: ANN401 - transformers' attention interface
) -> tuple[Tensor, None]:
    """Return attention of one packed row, segment by segment.

    `query` has shape (1, heads, T, D), `key` and `value` (1, key heads, T, D). Segments cover the
    row in order. Returns (1, T, heads, D).

    Raises:
        ValueError: the layer has attention sinks or a position bias.
    """
    segments: tuple[Segment, ...] | None = kwargs.pop("segments", None)
    kernel: Kernel = kwargs.pop("attention_kernel", "masks")
    window, softcap = kwargs.get("sliding_window"), kwargs.get("softcap")
    if segments is None:
        if softcap is None:
            return plain_attention(module, query, key, value, attention_mask, **kwargs)
        mask = attention_mask
        if mask is None:
            mask = _causal_mask(query.shape[2], key.shape[2], None, query.device)
        key, value = repeated(query, key, value)
        capped = _soft_capped(query, key, value, mask, softcap, kwargs.get("scaling"))
        return capped.transpose(1, 2), None
    if kwargs.get("s_aux") is not None or kwargs.get("position_bias") is not None:
        raise ValueError("attention sinks and position biases are not supported on packed rows")
    options = {"scale": kwargs.get("scaling"), "dropout": kwargs.get("dropout", 0.0)}
    if kernel == "varlen" and softcap is None and varlen.fits(query, options["dropout"]):
        states = query, key, value
        return varlen.attend(states, segments, window, options["scale"]), None
    masks = _masks_of(segments, query.dtype, query.device)
    attend = _Attend(kernel, window, softcap, options, masks)
    # Split, not sliced: the gradient of a split is one concatenation, that of a slice a whole row
    # of zeros for each segment.
    sizes = [segment.end - segment.start for segment in segments]
    pieces = zip(
        segments, query.split(sizes, 2), key.split(sizes, 2), value.split(sizes, 2), strict=True
    )
    owners: dict[int, tuple[Tensor, Tensor]] = {}
    parts = []
    for segment, queries, own_keys, own_values in pieces:
        owners[segment.start] = own_keys, own_values
        keys, values = own_keys, own_values
        if segment.prefix_end > segment.prefix_start:
            prefix = segment.prefix_end - segment.prefix_start
            first_keys, first_values = owners[segment.prefix_start]
            keys = torch.cat([first_keys[:, :, :prefix], keys], dim=2)
            values = torch.cat([first_values[:, :, :prefix], values], dim=2)
        part = attend(queries, keys, values)
        parts.append(part.transpose(1, 2))  # as SDPA lays it out in memory
    return torch.cat(parts, dim=1), None


Masks = dict[tuple[int, int, int | None], Tensor]
"""By queries, keys and window."""


@lru_cache(maxsize=1)
def _masks_of(segments: tuple[Segment, ...], dtype: torch.dtype, device: torch.device) -> Masks:
    """Return the masks of a row, empty at first, shared by its layers; the next row drops them."""
    return {}


@dataclass(frozen=True)
class _Attend:
    """Causal attention of a segment whose last query sees the last key (bottom-right aligned)."""

    kernel: Kernel
    window: int | None
    softcap: float | None
    options: dict[str, Any]
    masks: Masks

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return the attention; query (1, heads, Q, D), key and value (1, key heads, K, D)."""
        queries, keys = query.shape[2], key.shape[2]
        window = self.window if self.window is not None and keys > self.window else None
        mask: Tensor | None = None
        has_mask = False
        if self.softcap is not None:
            added = self._added_mask(queries, keys, window, query)
            key, value = repeated(query, key, value)
            return _soft_capped(query, key, value, added, self.softcap, self.options["scale"])
        if window is None and queries != keys and self.kernel != "masks":
            mask = causal_lower_right(queries, keys)
        elif window is not None or queries != keys:
            mask, has_mask = self._added_mask(queries, keys, window, query), True
        is_shared = takes_shared_keys(query.device, query.dtype, has_mask=has_mask)
        if not is_shared:
            key, value = repeated(query, key, value)
        return F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            is_causal=mask is None,
            dropout_p=self.options["dropout"],
            scale=self.options["scale"],
            enable_gqa=is_shared,
        )

    def _added_mask(self, queries: int, keys: int, window: int | None, query: Tensor) -> Tensor:
        """Return a mask as SDPA adds it to the scores.

        SDPA turns a mask of booleans into such numbers in every layer and keeps each for the
        backward pass.
        """
        found = self.masks.get((queries, keys, window))
        if found is None:
            seen = _causal_mask(queries, keys, window, query.device)
            found = torch.zeros(queries, keys, dtype=query.dtype, device=query.device)
            found.masked_fill_(~seen, -torch.inf)
            self.masks[queries, keys, window] = found
        return found


def _causal_mask(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    behind = torch.arange(keys - queries, keys, device=device)[:, None] - torch.arange(
        keys, device=device
    )
    seen = behind >= 0
    return seen if window is None else seen & (behind < window)


def _soft_capped(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    softcap: float,
    scale: float | None,
) -> Tensor:
    """Attention with tanh-capped scores (Gemma 2), which SDPA does not have."""
    scores = (query @ key.transpose(2, 3)) * (scale or query.shape[-1] ** -0.5)
    scores = torch.tanh(scores / softcap) * softcap
    if mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    else:
        scores = scores + mask
    return scores.float().softmax(-1).to(value.dtype) @ value


def register() -> None:
    """Make `NAME` known to transformers; safe to call again."""
    AttentionInterface.register(NAME, segment_attention)
    AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
