"""RMS norms with a frozen gain as Triton kernels: each row is read once. Floor 2.

    r = 1 / √(mean(x²) + ε)      y = r·x ∘ w      ∂x = r·(h − x·r²·mean(h ∘ x)),  h = G ∘ w

Bytes moved for each number of x, which has b bytes (`rms_norm` passes over the row several times):

    forward    b = 2: 32 → 2b = 4      b = 4: 20 → 2b = 8
    backward   b = 2: 54 → 3b = 6      b = 4: 44 → 3b = 12

Sums and products are float32. Runs on CUDA, ROCm and, with TRITON_INTERPRET=1, on a CPU. Imports
Triton: only `row_kernels` imports this module.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from orpo_qlora.orpo.kernels.rms_norm import NormKernel

TILE = 1024
"""Numbers of a program where rows are shorter: the heads of q and k take several rows at once."""
WIDEST = 16384
"""Longest row that a program holds in its registers."""


@triton.jit(do_not_specialize=["count"])
def _forward(  # noqa: PLR0913 - a kernel has no structures
    x: tl.tensor,
    gain: tl.tensor,
    y: tl.tensor,
    inverse: tl.tensor,
    count: tl.int64,
    width: tl.int32,
    epsilon: tl.float32,
    ROWS: tl.constexpr,  # noqa: N803 - Triton's custom for compile-time constants
    WIDTH: tl.constexpr,  # noqa: N803
) -> None:
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, WIDTH)
    places = rows[:, None] * width + columns[None, :]
    inside = (rows < count)[:, None] & (columns < width)[None, :]
    values = tl.load(x + places, mask=inside, other=0.0).to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(values * values, axis=1) / width + epsilon)
    gains = tl.load(gain + columns, mask=columns < width, other=0.0)
    normed = values * scale[:, None] * gains[None, :]
    tl.store(y + places, normed.to(y.dtype.element_ty), mask=inside)
    tl.store(inverse + rows, scale, mask=rows < count)


@triton.jit(do_not_specialize=["count"])
def _backward(  # noqa: PLR0913
    grad: tl.tensor,
    x: tl.tensor,
    gain: tl.tensor,
    inverse: tl.tensor,
    x_grad: tl.tensor,
    count: tl.int64,
    width: tl.int32,
    ROWS: tl.constexpr,  # noqa: N803
    WIDTH: tl.constexpr,  # noqa: N803
) -> None:
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, WIDTH)
    places = rows[:, None] * width + columns[None, :]
    inside = (rows < count)[:, None] & (columns < width)[None, :]
    values = tl.load(x + places, mask=inside, other=0.0).to(tl.float32)
    gains = tl.load(gain + columns, mask=columns < width, other=0.0)
    scaled = tl.load(grad + places, mask=inside, other=0.0).to(tl.float32) * gains[None, :]
    scale = tl.load(inverse + rows, mask=rows < count, other=0.0)
    shared = tl.sum(scaled * values, axis=1) / width * scale * scale
    found = scale[:, None] * (scaled - values * shared[:, None])
    tl.store(x_grad + places, found.to(x_grad.dtype.element_ty), mask=inside)


def forward(x: Tensor, gain: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Return y like x (..., H) and float32 1 / rms (..., 1); see `rms_norm.forward`.

    Raises:
        ValueError: rows are longer than `WIDEST`.
    """
    x = x.contiguous()
    y = torch.empty_like(x)
    inverse = x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)
    count, width = inverse.numel(), x.shape[-1]
    if count:
        with torch.cuda.device_of(x):
            grid, options = _launch(count, width)
            _forward[grid](x, gain.contiguous(), y, inverse, count, width, epsilon, **options)
    return y, inverse


def backward(grad: Tensor, x: Tensor, inverse: Tensor, gain: Tensor) -> Tensor:
    """Return ∂x like x; see `rms_norm.backward`."""
    grad, x = grad.contiguous(), x.contiguous()
    x_grad = torch.empty_like(x)
    count, width = inverse.numel(), x.shape[-1]
    if count:
        with torch.cuda.device_of(x):
            grid, options = _launch(count, width)
            _backward[grid](grad, x, gain.contiguous(), inverse, x_grad, count, width, **options)
    return x_grad


def _launch(count: int, width: int) -> tuple[tuple[int], dict[str, int]]:
    """Return the number of programs and the tile of each.

    A warp has 512 numbers or more, at most 16 warps: 32 of AMD's are more than a program may have.
    """
    padded = triton.next_power_of_2(width)
    if padded > WIDEST:
        raise ValueError(f"rows of {width} numbers are too long for one program")
    rows = max(1, TILE // padded)
    warps = min(16, max(4, rows * padded // 512))
    return (triton.cdiv(count, rows),), {"ROWS": rows, "WIDTH": padded, "num_warps": warps}


KERNEL = NormKernel(forward, backward)
