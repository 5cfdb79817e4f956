"""The choice of kernels for norms and activations: Triton's on a GPU, torch's everywhere. Floor 2.

Triton's kernels move fewer bytes (`triton_rms_norm`, `triton_gated_mlp`) and are used if they give
the numbers of torch's on the device; the start-up check of the engine then compares whole models.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, ParamSpec, TypeVar

import torch
from torch import Tensor

from orpo_qlora.models.devices.hardware import is_out_of_memory
from orpo_qlora.orpo.kernels import activations, rms_norm
from orpo_qlora.orpo.kernels.activations import Activation, Activations
from orpo_qlora.orpo.kernels.rms_norm import NormKernel

Name = Literal["triton", "torch"]
NAMES: dict[Name, str] = {"triton": "Triton's kernels", "torch": "torch's kernels"}

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
"""Largest relative L2 distance of a kernel's output from torch's that counts as rounding. Types
that are not here are left to torch."""
CHECKED_SHAPES = ((5, 128), (3, 1000))
"""Several short rows in one program, and rows that end within a block."""
EPSILON = 1e-6
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class KernelError(RuntimeError):
    """A kernel cannot be compiled or started, or computes other numbers."""


@dataclass(frozen=True)
class RowKernels:
    """Kernels that read and write the rows of activations."""

    name: Name
    norm: NormKernel
    activations: Activations


TORCH = RowKernels("torch", rms_norm.EAGER, activations.EAGER)


def names(device: torch.device, dtype: torch.dtype) -> tuple[Name, ...]:
    """Return the kernels that a device may have, fastest first."""
    return ("triton", "torch") if device.type == "cuda" and dtype in TOLERANCE else ("torch",)


def load(name: Name, device: torch.device, dtype: torch.dtype) -> RowKernels:
    """Return kernels that have passed their check on a device.

    Raises:
        KernelError: they do not run there, with the reason.
    """
    if name == "torch":
        return TORCH
    kernels = _triton()
    _check(kernels, device, dtype)
    return kernels


@lru_cache(maxsize=1)
def _triton() -> RowKernels:
    """Return Triton's kernels; imports Triton. A failed call raises `KernelError`."""
    try:
        from triton.errors import TritonError

        from orpo_qlora.orpo.kernels import triton_gated_mlp, triton_rms_norm
    except ImportError as exc:
        raise KernelError("Triton is not installed") from exc
    except (OSError, RuntimeError, AttributeError, TypeError) as exc:
        raise KernelError(f"Triton cannot be imported: {_summary(exc)}") from exc
    # The first call starts a C compiler and an assembler, and writes to a cache.
    failures = TritonError, OSError, subprocess.SubprocessError, RuntimeError, ValueError, TypeError

    def translated(run: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
        def translating(*arguments: _Arguments.args, **options: _Arguments.kwargs) -> _Result:
            try:
                return run(*arguments, **options)
            except failures as exc:
                if is_out_of_memory(exc):
                    raise
                raise KernelError(f"a Triton kernel does not run: {_summary(exc)}") from exc

        return translating

    norm = triton_rms_norm.KERNEL
    return RowKernels(
        "triton",
        NormKernel(translated(norm.forward), translated(norm.backward)),
        {
            name: Activation(translated(one.product), translated(one.gradients))
            for name, one in triton_gated_mlp.ACTIVATIONS.items()
        },
    )


def _summary(exc: BaseException) -> str:
    lines = str(exc).strip().splitlines()
    return f"{type(exc).__name__}: {lines[-1].strip()}" if lines else type(exc).__name__


def _check(kernels: RowKernels, device: torch.device, dtype: torch.dtype) -> None:
    """Compare each kernel with torch's on random rows.

    Raises:
        KernelError: one fails or differs.
    """
    for shape in CHECKED_SHAPES:
        for one in differences(kernels, shape, device, dtype):
            if not one.distance <= TOLERANCE[dtype]:  # true for NaN too
                raise KernelError(
                    f"the {one.kernel} kernel differs by {one.distance:.1e} in {one.output}"
                )


@dataclass(frozen=True)
class Difference:
    """How far an output of a kernel is from that of torch's kernel."""

    kernel: str
    output: str
    distance: float
    """Relative, L2."""


def differences(
    kernels: RowKernels, shape: Sequence[int], device: torch.device, dtype: torch.dtype
) -> list[Difference]:
    """Return the difference of each output on random rows of a shape (..., H)."""
    source = torch.Generator().manual_seed(0)

    def random(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=source).to(device, dtype)

    gain = 1 + 0.2 * random(shape[-1]).float()
    rows = _Rows(random(*shape), random(*shape), random(*shape), gain)
    wanted = _outputs(TORCH, rows)
    return [
        Difference(*key, _distance(found, wanted[key]))
        for key, found in _outputs(kernels, rows).items()
    ]


@dataclass(frozen=True)
class _Rows:
    x: Tensor
    up: Tensor
    grad: Tensor
    gain: Tensor


def _outputs(kernels: RowKernels, rows: _Rows) -> dict[tuple[str, str], Tensor]:
    """Return what kernels give, by kernel and output."""
    y, inverse = kernels.norm.forward(rows.x, rows.gain, EPSILON)
    x_grad = kernels.norm.backward(rows.grad, rows.x, inverse, rows.gain)
    found = {("RMS norm", "y"): y, ("RMS norm", "1/rms"): inverse, ("RMS norm", "∂x"): x_grad}
    for name, activation in kernels.activations.items():
        product, up_grad, gate_grad = activation.gradients(rows.grad.clone(), rows.x, rows.up)
        found[name, "φ(g)∘u, forward"] = activation.product(rows.x, rows.up)
        found[name, "φ(g)∘u, backward"] = product
        found[name, "∂u"], found[name, "∂g"] = up_grad, gate_grad
    return found


def _distance(found: Tensor, wanted: Tensor) -> float:
    off = (found.double() - wanted.double()).norm() / wanted.double().norm().clamp(min=1e-30)
    return float(off)
