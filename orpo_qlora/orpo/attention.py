"""Attention over segments of a packed row: no padding, no masked block computed. Floor 2.

Registered with transformers under `NAME`. A model whose layers forward keyword arguments hands
`segments` to `segment_attention`; without them it is plain SDPA, so the same model also generates.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

from orpo_qlora.orpo.rows.packing import Segment

NAME = "orpo_segments"

UNUSED_MASK_SHAPE = (1, 1, 1, 1)
"""A 4-D mask of any size stops transformers 5 from building one. Without it, masks are derived from
`position_ids`, which for a branched row cuts the rejected response off from its prompt."""


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
    window, softcap = kwargs.get("sliding_window"), kwargs.get("softcap")
    if segments is None:
        if softcap is None:
            return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        mask = attention_mask
        if mask is None:
            mask = _causal_mask(query.shape[2], key.shape[2], None, query.device)
        key, value = _repeated(query, key, value)
        capped = _soft_capped(query, key, value, mask, softcap, kwargs.get("scaling"))
        return capped.transpose(1, 2), None
    if kwargs.get("s_aux") is not None or kwargs.get("position_bias") is not None:
        raise ValueError("attention sinks and position biases are not supported on packed rows")
    options = {"scale": kwargs.get("scaling"), "dropout": kwargs.get("dropout", 0.0)}
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
        part = _attend(queries, keys, values, (window, softcap), options)
        parts.append(part.transpose(1, 2))  # as SDPA lays it out in memory
    return torch.cat(parts, dim=1), None


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    limits: tuple[int | None, float | None],
    options: dict[str, Any],
) -> Tensor:
    """Causal attention whose last query sees the last key (bottom-right aligned)."""
    window, softcap = limits
    queries, keys = query.shape[2], key.shape[2]
    needs_window = window is not None and keys > window
    mask = None
    if queries != keys or needs_window or softcap is not None:
        mask = _causal_mask(queries, keys, window if needs_window else None, query.device)
    if softcap is not None and mask is not None:
        key, value = _repeated(query, key, value)
        return _soft_capped(query, key, value, mask, softcap, options["scale"])
    is_grouped = _takes_grouped_keys(query.device.type, query.dtype, has_mask=mask is not None)
    if not is_grouped:
        key, value = _repeated(query, key, value)
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None,
        dropout_p=options["dropout"],
        scale=options["scale"],
        enable_gqa=is_grouped,
    )


def _takes_grouped_keys(device: str, dtype: torch.dtype, *, has_mask: bool) -> bool:
    """Whether SDPA has a kernel for keys shared by several query heads that holds no scores.

    On CUDA only the flash kernel does, which takes neither a mask nor float32; the memory-efficient
    one takes both with the keys repeated.
    """
    return device == "cpu" or (not has_mask and dtype in (torch.float16, torch.bfloat16))


def _repeated(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return keys and values once for every query head (grouped-query attention)."""
    groups = query.shape[1] // key.shape[1]
    if groups == 1:
        return key, value
    return key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)


@lru_cache(maxsize=64)
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
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores.float().softmax(-1).to(value.dtype) @ value


def register() -> None:
    """Make `NAME` known to transformers; safe to call again."""
    AttentionInterface.register(NAME, segment_attention)
    AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
