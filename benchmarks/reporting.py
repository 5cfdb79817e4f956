"""Replies of trainers to numbers, a table, and a JSON file with hardware and versions."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks.cells import Cell
from benchmarks.trainers import Reply

PACKAGES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate")


@dataclass(frozen=True)
class Result:
    """One trainer's numbers over the timed steps."""

    name: str
    steps: int
    seconds: float
    """Median of a step."""
    quartiles: tuple[float, float]
    ratio: float
    """Median over steps of its seconds by the first trainer's for the same pairs."""
    bytes_above_weights: float
    first_loss: float
    last_loss: float
    first_chosen_logps: float
    first_rejected_logps: float
    gflops: float

    @classmethod
    def of(
        cls, name: str, replies: Sequence[Reply], firsts: Sequence[Reply], warm_up: int
    ) -> Result:
        """Sum up a trainer's replies beside the first trainer's."""
        timed = [reply.seconds for reply in replies[warm_up:]]
        ratios = [
            reply.seconds / first.seconds
            for reply, first in zip(replies[warm_up:], firsts[warm_up:], strict=True)
        ]
        low, median, high = statistics.quantiles(timed, n=4)
        return cls(
            name=name,
            steps=len(timed),
            seconds=median,
            quartiles=(low, high),
            ratio=statistics.median(ratios),
            bytes_above_weights=max(reply.bytes_above_weights for reply in replies),
            first_loss=replies[0].loss,
            last_loss=replies[-1].loss,
            first_chosen_logps=replies[0].logps_chosen,
            first_rejected_logps=replies[0].logps_rejected,
            gflops=statistics.median(reply.gflops for reply in replies[warm_up:]),
        )


def print_table(cell: Cell, results: Sequence[Result]) -> None:
    """Print a cell as the table of docs/engine.md has it."""
    print(f"\n{cell.name}: {cell.pairs_per_step} pairs and {cell.unique_tokens:.0f} tokens a step")
    gemm = next((result.gflops for result in results if result.name == "GEMM"), float("nan"))
    print(
        "trainer | pairs/s | tokens/s | time | of GEMM | GB above weights | first loss, log-probs"
    )
    for result in results:
        if result.name == "GEMM":
            continue
        use = cell.useful_flops / result.seconds / 1e9 / gemm
        print(
            f"{result.name} | {cell.pairs_per_step / result.seconds:.3f} | "
            f"{cell.unique_tokens / result.seconds:.0f} | {result.ratio:.2f} | {use:.0%} | "
            f"{result.bytes_above_weights / 1e9:.2f} | {result.first_loss:.6f} "
            f"{result.first_chosen_logps:.6f} {result.first_rejected_logps:.6f}"
        )
    print(f"GEMM: {gemm:.0f} GFLOP/s")


def save_result(path: Path, cell: Cell, results: Sequence[Result]) -> None:
    """Add a cell to a JSON file, replacing an older one of the same name and size."""
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"cells": []}
    content["hardware"] = _hardware()
    content["versions"] = {name: version(name) for name in PACKAGES}
    entry = {
        "cell": cell.name,
        "pairs_per_step": cell.pairs_per_step,
        "unique_tokens_a_step": cell.unique_tokens,
        "useful_gflop_a_step": cell.useful_flops / 1e9,
        "results": [asdict(result) for result in results],
    }
    others = [
        old
        for old in content["cells"]
        if (old["cell"], old["pairs_per_step"], len(old["results"]))
        != (entry["cell"], entry["pairs_per_step"], len(results))
    ]
    content["cells"] = [*others, entry]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _hardware() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    kind = torch.backends.cpu.get_cpu_capability()
    return f"{torch.get_num_threads()} CPU threads, {platform.machine()}, {kind}"
