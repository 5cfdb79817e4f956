"""Replies of trainers to numbers, a table, and a JSON file with hardware and versions.

Run: python -m benchmarks.reporting benchmarks/results/cpu.json docs/engine.md
puts the tables of a result file into a page.
"""

from __future__ import annotations

import json
import math
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.cells import Cell
from benchmarks.trainers import Reply

START, END = "<!-- measured -->", "<!-- /measured -->"
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
    processor_seconds: float
    """Median of a step, summed over threads."""
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
            processor_seconds=statistics.median(r.processor_seconds for r in replies[warm_up:]),
            bytes_above_weights=max(reply.bytes_above_weights for reply in replies),
            first_loss=replies[0].loss,
            last_loss=replies[-1].loss,
            first_chosen_logps=replies[0].logps_chosen,
            first_rejected_logps=replies[0].logps_rejected,
            gflops=statistics.median(reply.gflops for reply in replies[warm_up:]),
        )


def to_markdown(entry: Mapping[str, Any]) -> str:
    """Return one cell of a result file as a table with a heading line."""
    gemm = next((one["gflops"] for one in entry["results"] if one["name"] == "GEMM"), math.nan)
    lines = [
        f"**{entry['cell']}**, {entry['pairs_per_step']} pairs and "
        f"{entry['unique_tokens_a_step']:.0f} tokens a step, median of "
        f"{entry['results'][0]['steps']} steps"
        + (f"; GEMM: {gemm:.0f} GFLOP/s" if not math.isnan(gemm) else ""),
        "",
        "| trainer | pairs/s | tokens/s | time | of GEMM | GB above weights | first log-probs |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in entry["results"]:
        if one["name"] == "GEMM":
            continue
        # By the ratio of the same step, not by the median of other minutes.
        seconds = entry["results"][0]["seconds"] * one["ratio"]
        use = entry["useful_gflop_a_step"] / seconds / gemm
        logps = (one["first_chosen_logps"], one["first_rejected_logps"])
        cells = [
            one["name"],
            f"{entry['pairs_per_step'] / seconds:.3f}",
            f"{entry['unique_tokens_a_step'] / seconds:.0f}",
            f"{one['ratio']:.2f}",
            "" if math.isnan(use) else f"{use:.0%}",
            f"{one['bytes_above_weights'] / 1e9:.2f}",
            "own tokens" if math.isnan(logps[0]) else f"{logps[0]:.5f} {logps[1]:.5f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def write_page(results: Path, page: Path) -> None:
    """Put the tables of a result file between a page's two marks."""
    content = json.loads(results.read_text(encoding="utf-8"))
    versions = ", ".join(f"{name} {number}" for name, number in content["versions"].items())
    tables = "\n".join(to_markdown(entry) for entry in content["cells"])
    head, _, rest = page.read_text(encoding="utf-8").partition(START)
    tail = rest.partition(END)[2]
    text = f"{content['hardware']}; {versions}.\n\n{tables}"
    page.write_text(f"{head}{START}\n\n{text}\n{END}{tail}", encoding="utf-8")


def to_entry(cell: Cell, results: Sequence[Result]) -> dict[str, Any]:
    """Return a cell as the result file has it."""
    return {
        "cell": cell.name,
        "pairs_per_step": cell.pairs_per_step,
        "unique_tokens_a_step": cell.unique_tokens,
        "useful_gflop_a_step": cell.useful_flops / 1e9,
        "results": [asdict(result) for result in results],
    }


def save_entry(path: Path, entry: Mapping[str, Any]) -> None:
    """Add a cell to a JSON file, replacing an older one of the same trainers."""
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"cells": []}
    content["hardware"] = _hardware()
    content["versions"] = {name: version(name) for name in PACKAGES}
    others = [old for old in content["cells"] if _identity(old) != _identity(entry)]
    content["cells"] = [*others, entry]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _identity(entry: Mapping[str, Any]) -> tuple[object, ...]:
    names = {one["name"] for one in entry["results"]}
    return entry["cell"], entry["pairs_per_step"], frozenset(names)


def _hardware() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    kind = torch.backends.cpu.get_cpu_capability()
    return f"{torch.get_num_threads()} CPU threads, {platform.machine()}, {kind}"


if __name__ == "__main__":
    write_page(Path(sys.argv[1]), Path(sys.argv[2]))
