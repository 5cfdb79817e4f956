"""The ceiling: the model's own products at the same time on the same machine. See `turns`.

A turn multiplies what one block and the head multiply forward and for the input's gradient, at the
length of a full forward, and says how fast.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch

from benchmarks.peers.turns import Spec, Turns
from orpo_qlora.models.devices import hardware
from orpo_qlora.models.devices.memory import read_shape

ROWS = 1024
HEAD_ROWS = 256
REPEATS = 5


def main() -> None:
    """Multiply on request."""
    spec, turns = Spec.of_arguments(), Turns()
    hardware.use_all_cores()
    shape = read_shape(Path(spec.model))
    arithmetic = hardware.choose_arithmetic()
    sizes = [
        (ROWS, shape.hidden, shape.query_width),
        (ROWS, shape.hidden, shape.key_width),
        (ROWS, shape.hidden, shape.intermediate),
        (ROWS, shape.intermediate, shape.hidden),
        (HEAD_ROWS, shape.hidden, shape.vocabulary),
    ]
    options = {"dtype": arithmetic.dtype, "device": arithmetic.device}
    operands = [
        (
            torch.randn(rows, width, **options),
            torch.randn(height, width, **options),
            torch.empty(rows, height, **options),
            torch.empty(rows, width, **options),
        )
        for rows, width, height in sizes
    ]
    flops = sum(4.0 * rows * width * height for rows, width, height in sizes) * REPEATS
    turns.ready()
    while True:
        turns.wait()
        started = time.perf_counter()
        for _ in range(REPEATS):
            for x, weight, y, x_grad in operands:
                torch.mm(x, weight.t(), out=y)
                torch.mm(y, weight, out=x_grad)
        if arithmetic.device == "cuda":
            torch.cuda.synchronize()
        turns.done(gflops=flops / (time.perf_counter() - started) / 1e9)


if __name__ == "__main__":
    main()
