"""One RMS norm and one SwiGLU by torch's kernels and by Triton's.

`python -m benchmarks.gpu.kernels SHAPE` prints JSON: which kernels are used, why Triton's are not,
and the seconds of each. Where Triton does not run, as on a CPU, torch's alone are timed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu.shapes import SHAPES
from orpo_qlora.models.devices import hardware
from orpo_qlora.orpo.kernels import row_kernels
from orpo_qlora.orpo.kernels.row_kernels import KernelError, Name, RowKernels

TOKENS = 8192
"""Of a full forward on a GPU."""
REPEATS = 20


def kernel_times(shape: str, arithmetic: hardware.Arithmetic, tokens: int) -> dict[str, Any]:
    """Return the median seconds of each kernel at the widths of a shape."""
    device = torch.device(arithmetic.device)
    problem, seconds = "", {}
    possible = row_kernels.names(device, arithmetic.dtype)
    for name in possible:
        try:
            kernels = row_kernels.load(name, device, arithmetic.dtype)
            seconds[name] = _seconds(kernels, shape, arithmetic, tokens)
        except KernelError as exc:
            problem = str(exc)
    chosen: Name = "triton" if "triton" in seconds else "torch"
    return {
        "chosen": chosen,
        "problem": problem,
        "shape": shape,
        "tokens": tokens,
        "dtype": str(arithmetic.dtype).removeprefix("torch."),
        "seconds": seconds,
    }


def _seconds(
    kernels: RowKernels, shape: str, arithmetic: hardware.Arithmetic, tokens: int
) -> dict[str, float]:
    config = SHAPES[shape]
    options = {"device": arithmetic.device, "dtype": arithmetic.dtype}
    x, grad = (torch.randn(tokens, config.hidden_size, **options) for _ in range(2))
    gate, up, product_grad = (
        torch.randn(tokens, config.intermediate_size, **options) for _ in range(3)
    )
    gain = torch.ones(config.hidden_size, device=arithmetic.device)
    _, inverse = kernels.norm.forward(x, gain, 1e-5)
    swiglu = kernels.activations["silu"]
    return {
        "RMS norm, forward": _median(lambda: kernels.norm.forward(x, gain, 1e-5)),
        "RMS norm, backward": _median(lambda: kernels.norm.backward(grad, x, inverse, gain)),
        "SwiGLU, forward": _median(lambda: swiglu.product(gate, up)),
        "SwiGLU, backward": _median(lambda: swiglu.gradients(product_grad, gate, up)),
    }


def _median(run: Callable[[], object]) -> float:
    run()  # compile
    seconds = []
    for _ in range(REPEATS):
        _synchronize()
        started = time.perf_counter()
        run()
        _synchronize()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=tuple(SHAPES))
    parser.add_argument("--tokens", type=int, default=TOKENS)
    options = parser.parse_args()
    times = kernel_times(options.shape, hardware.choose_arithmetic(), options.tokens)
    print(json.dumps(times))


if __name__ == "__main__":
    main()
