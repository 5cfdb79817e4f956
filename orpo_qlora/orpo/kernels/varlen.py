"""Attention of all segments of a row in one call of torch's variable-length kernel. Floor 2.

Flash attention over `cu_seqlens`: queries of segment i are the row's tokens from `cu_queries[i]` to
`cu_queries[i + 1]`, its keys likewise those of a gathered list, in which a prefix stands before the
segment's own keys. The kernel aligns its causal mask at the last query and the last key, so a
segment sees its whole prefix. It computes no masked block and takes keys shared by several query
heads as they are. 16 bits, heads of at most 256 numbers, NVIDIA cards from Ampere on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor

from orpo_qlora.orpo.rows.packing import Segment

WIDEST_HEAD = 256
HEAD_MULTIPLE = 8


def _installed() -> Callable[..., Tensor] | None:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:  # torch before 2.10
        return None
    return cast("Callable[..., Tensor]", varlen_attn)


kernel = _installed()
"""None where the installed torch has no such kernel."""


@dataclass(frozen=True)
class Lengths:
    """The lengths of a row's S segments, as the kernel takes them."""

    gathered: Tensor | None
    """Index of each key in the row, (K,); None where no segment has a prefix."""
    cu_queries: Tensor
    """(S + 1,), int32."""
    cu_keys: Tensor
    """(S + 1,), int32."""
    longest_queries: int
    longest_keys: int


@lru_cache(maxsize=1)  # the same for every layer of a forward
def lengths_of(segments: tuple[Segment, ...], device: torch.device) -> Lengths:
    """Return the lengths of segments, on a device."""
    queries = [segment.end - segment.start for segment in segments]
    prefixes = [segment.prefix_end - segment.prefix_start for segment in segments]
    keys = [own + prefix for own, prefix in zip(queries, prefixes, strict=True)]
    gathered = None
    if any(prefixes):
        places = [
            place
            for segment in segments
            for span in (
                range(segment.prefix_start, segment.prefix_end),
                range(segment.start, segment.end),
            )
            for place in span
        ]
        gathered = torch.tensor(places).to(device, non_blocking=True)
    return Lengths(
        gathered,
        _cumulated(queries, device),
        _cumulated(keys, device),
        max(queries),
        max(keys),
    )


def _cumulated(lengths: list[int], device: torch.device) -> Tensor:
    ends = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    return ends.to(device, non_blocking=True)


def fits(query: Tensor, dropout: float) -> bool:
    """Whether the kernel takes queries of shape (1, heads, T, D)."""
    width = query.shape[-1]
    return dropout == 0 and width <= WIDEST_HEAD and width % HEAD_MULTIPLE == 0


def attend(
    states: tuple[Tensor, Tensor, Tensor],
    segments: tuple[Segment, ...],
    window: int | None,
    scale: float | None,
) -> Tensor:
    """Return the attention of a row, shape (1, T, heads, D).

    Args:
        states: query, shape (1, heads, T, D), key and value, (1, key heads, T, D).
        segments: of the row, in order.
        window: of a sliding window, in tokens; None without.
        scale: of the scores; None is 1/√D.

    Raises:
        RuntimeError: the device has no such kernel.
    """
    if kernel is None:
        raise RuntimeError("this torch has no attention over variable lengths")
    query, key, value = (state.transpose(1, 2)[0] for state in states)
    lengths = lengths_of(segments, query.device)
    if lengths.gathered is not None:
        key, value = (state.index_select(0, lengths.gathered) for state in (key, value))
    output = kernel(
        query,
        key,
        value,
        lengths.cu_queries,
        lengths.cu_keys,
        lengths.longest_queries,
        lengths.longest_keys,
        scale=scale,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output.unsqueeze(0)
