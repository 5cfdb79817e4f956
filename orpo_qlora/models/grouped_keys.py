"""Keys and values that several query heads share, on devices with and without a kernel. Floor 1.

SDPA's flash kernel takes shared keys as they are, in 16 bits from compute capability 8.0 on. The
memory-efficient kernel takes float32, older cards and masks, but every query head with its own
keys; given shared ones, torch falls back to a kernel that holds all scores.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

NAME = "sdpa_repeated_keys"
FIRST_WITH_FLASH = (8, 0)
"""Compute capability of the first cards with torch's flash kernel (Ampere)."""


def has_flash(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a GPU has the flash kernel for a number type."""
    if dtype not in (torch.float16, torch.bfloat16):
        return False
    return torch.version.hip is not None or (
        torch.cuda.get_device_capability(device) >= FIRST_WITH_FLASH
    )


def takes_shared_keys(device: torch.device, dtype: torch.dtype, *, has_mask: bool) -> bool:
    """Whether SDPA has a kernel for keys shared by several query heads that holds no scores."""
    if device.type != "cuda":
        return True
    return not has_mask and has_flash(device, dtype)


def repeated(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return keys and values once for every query head; shapes (1, heads, T, D)."""
    groups = query.shape[1] // key.shape[1]
    if groups == 1:
        return key, value
    return key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)


def plain_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,  # noqa: ANN401 - transformers' attention interface
) -> tuple[Tensor, None]:
    """Return transformers' SDPA attention, keys repeated where no kernel takes them shared."""
    is_single = query.shape[2] == 1  # a decoded token: its scores are one row
    has_mask = attention_mask is not None
    if not is_single and not takes_shared_keys(query.device, query.dtype, has_mask=has_mask):
        key, value = repeated(query, key, value)
        # Without the number of groups transformers takes the keys as they are.
        is_causal = getattr(module, "is_causal", True)
        module = cast("nn.Module", SimpleNamespace(is_causal=is_causal))
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


def repeat_keys_where_needed(model: PreTrainedModel) -> bool:
    """Let a model on a GPU without the flash kernel repeat shared keys; return whether it does."""
    if model.device.type != "cuda" or model.config._attn_implementation != "sdpa":
        return False
    if has_flash(model.device, model.dtype):
        return False
    AttentionInterface.register(NAME, plain_attention)
    AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    model.set_attn_implementation(NAME)
    return True
