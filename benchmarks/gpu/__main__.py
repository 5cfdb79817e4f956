"""The whole GPU table in under ten minutes: `benchmarks/gpu.sh`, see `--help`.

Each trainer has a process of its own for each shape and measures all cells there. Results are
written after each process: what could not be measured in time is named in the file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PACKAGES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate")
TRAINERS = {"ours": "orpo-qlora", "trl": "TRL"}


@dataclass(frozen=True)
class Extent:
    """What is measured, and for how long."""

    shapes: tuple[str, ...]
    cells: tuple[str, ...]
    steps: int
    seconds: float
    """Of a cell, at most; one forward over the limit is finished."""
    deadline: float
    """Seconds of everything together."""
    kernels: tuple[str, int]
    """Shape and tokens of the norm and activation that are timed alone."""


WHOLE = Extent(
    ("qwen-0.5b", "llama-8b"), ("short", "hh", "long"), 8, 14.0, 570.0, ("llama-8b", 8192)
)
DRY = Extent(("tiny-llama", "tiny-qwen"), ("tiny",), 2, 5.0, 570.0, ("tiny-llama", 64))


def main() -> int:
    """Measure, test, write the file; return 1 where something failed."""
    options = _options()
    extent = DRY if options.dry_run else WHOLE
    started = time.monotonic()
    results: dict[str, Any] = {
        "is_dry_run": options.dry_run,
        "packages": {name: version(name) for name in PACKAGES},
        "cells": [],
        "problems": [],
    }
    for shape in extent.shapes:
        for trainer in TRAINERS:
            left = extent.deadline - (time.monotonic() - started)
            rows, problem = _run_trainer(trainer, shape, extent, left)
            results["cells"] += rows
            results["problems"] += [problem] if problem else []
            _write(options.out, results)
    left = extent.deadline - (time.monotonic() - started)
    results["kernels"] = kernels = _time_kernels(extent, left)
    results["problems"] += [f"kernels: {kernels}"] if isinstance(kernels, str) else []
    if not options.without_tests:
        left = extent.deadline - (time.monotonic() - started)
        tests = _run_tests(left)
        results["tests"] = tests.text.splitlines()[-1]
        left = extent.deadline - (time.monotonic() - started)
        results["doctor"] = _run_doctor(left)
        results["problems"] += [f"tests: {results['tests']}"] if tests.code else []
        results["problems"] += _problems_of(results["doctor"])
    results["seconds"] = round(time.monotonic() - started)
    _write(options.out, results)
    print(to_markdown(results))
    print(f"Results: {options.out} and {options.out.with_suffix('.md')}")
    return 1 if results["problems"] or any(row["error"] for row in results["cells"]) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/gpu.sh", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/gpu.json")
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes, also on a CPU")
    parser.add_argument("--without-tests", action="store_true", help="only the table")
    return parser.parse_args()


def _run_trainer(
    trainer: str, shape: str, extent: Extent, left: float
) -> tuple[list[dict[str, Any]], str]:
    """Return the rows of a trainer's process, and what went wrong."""
    name = f"{TRAINERS[trainer]} on {shape}"
    if left <= 0:
        return [], f"{name}: not measured, no time left"
    print(f"{name} …", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.jsonl"
        command = [
            *(sys.executable, "-m", "benchmarks.gpu.trainer", trainer, shape),
            *("--cells", ",".join(extent.cells), "--steps", str(extent.steps)),
            *("--seconds", str(extent.seconds), "--out", str(out)),
        ]
        text = _finished(command, left).text
        lines = out.read_text(encoding="utf-8").splitlines() if out.exists() else []
    rows = [json.loads(line) for line in lines]
    if len(rows) == len(extent.cells):
        return rows, ""
    missing = ", ".join(extent.cells[len(rows) :])
    return rows, f"{name}: {missing} not measured: {text}"


@dataclass(frozen=True)
class _Ended:
    """Exit code and last lines of a program; code 1 where it did not end by itself."""

    code: int
    text: str


def _finished(command: Sequence[str], seconds: float) -> _Ended:
    """Run a program for some time at most."""
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            timeout=max(1.0, seconds),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _Ended(1, f"stopped after {seconds:.0f} seconds")
    last = "\n".join(done.stdout.strip().splitlines()[-3:])
    return _Ended(done.returncode, f"exit code {done.returncode}: {last}")


def _time_kernels(extent: Extent, left: float) -> object:
    """Return the report of `benchmarks.gpu.kernels`, or why there is none."""
    if left <= 0:
        return "not measured, no time left"
    shape, tokens = extent.kernels
    command = (sys.executable, "-m", "benchmarks.gpu.kernels", shape, "--tokens", str(tokens))
    ended = _finished(command, left)
    if ended.code:
        return f"not measured: {ended.text}"
    return json.loads(ended.text.splitlines()[-1].removeprefix("exit code 0: "))


def _run_tests(left: float) -> _Ended:
    """Run the tests that need a GPU; the last line is their summary."""
    if left <= 0:
        return _Ended(1, "not run, no time left")
    files = [
        str(file)
        for file in sorted((ROOT / "tests").rglob("test_*.py"))
        if "pytest.mark.gpu" in file.read_text(encoding="utf-8")
    ]
    command = (sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", *files)
    return _finished(command, left)


def _run_doctor(left: float) -> object:
    """Return the report of `orpo-qlora doctor --json`."""
    if left <= 0:
        return "not run, no time left"
    start = "from orpo_qlora.cli.main import main; main()"
    try:
        done = subprocess.run(
            (sys.executable, "-c", start, "doctor", "--json"),
            cwd=ROOT,
            timeout=left,
            capture_output=True,
            text=True,
            check=False,
        )
        return json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError) as exc:
        return f"no report: {type(exc).__name__}"


def _problems_of(doctor: object) -> list[str]:
    """Return what the doctor's report says of failed checks, or why there is no report."""
    if not isinstance(doctor, Mapping):
        return [f"doctor: {doctor}"]
    failed = [check for check in doctor["checks"] if not check["ok"]]
    return [f"doctor: {check['name']}: {check['detail']}" for check in failed]


def _write(path: Path, results: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(to_markdown(results), encoding="utf-8")


def to_markdown(results: Mapping[str, Any]) -> str:
    """Return the results as a table."""
    lines = [
        "# Throughput on a GPU" + (" (dry run: tiny shapes)" if results["is_dry_run"] else ""),
        "",
        _device(results.get("doctor")),
        ", ".join(f"{name} {number}" for name, number in results["packages"].items()) + ".",
        "",
        "| shape | cell | trainer | pairs/s | tokens/s | s a step | GB above weights "
        "| GB reserved | first loss | |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in results["cells"]:
        name = TRAINERS[row["trainer"]]
        if row["error"]:
            cells = [row["shape"], row["cell"], name, *["–"] * 6, row["error"]]
        else:
            seconds = row["seconds"]
            cells = [
                *(row["shape"], row["cell"], name),
                f"{row['pairs_per_step'] / seconds:.2f}",
                f"{row['tokens_per_step'] / seconds:,.0f}",
                f"{seconds:.3f}",
                f"{row['bytes_above_weights'] / 1e9:.2f}",
                f"{row['reserved_bytes'] / 1e9:.2f}",
                f"{row['loss']:.5f}",
                row["note"],
            ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"- {problem}" for problem in results["problems"])]
    lines += _kernel_lines(results.get("kernels"))
    if "tests" in results:
        lines += [f"Tests marked `gpu`: {results['tests']}"]
    return "\n".join(lines).rstrip() + "\n"


def _kernel_lines(kernels: object) -> list[str]:
    """Return a table of the kernels that were timed alone."""
    if not isinstance(kernels, Mapping):
        return [f"Norms and activations: {kernels or 'not measured'}", ""]
    seconds: Mapping[str, Mapping[str, float]] = kernels["seconds"]
    why = f" ({kernels['problem']})" if kernels["problem"] else ""
    names = list(seconds)
    lines = [
        f"Norms and activations: {kernels['chosen']}{why}. Microseconds of one call on "
        f"{kernels['tokens']} tokens of {kernels['shape']} in {kernels['dtype']}:",
        "",
        f"| kernel | {' | '.join(names)} |",
        f"| --- |{' --- |' * len(names)}",
    ]
    for kernel in seconds[names[0]]:
        cells = (f"{1e6 * seconds[name][kernel]:,.0f}" for name in names)
        lines.append(f"| {kernel} | {' | '.join(cells)} |")
    return [*lines, ""]


def _device(doctor: object) -> str:
    if not isinstance(doctor, Mapping):
        return "Device: see the JSON file."
    devices = doctor.get("devices") or []
    names = ", ".join(str(one.get("name", "")) for one in devices if isinstance(one, Mapping))
    return f"Device: {names or 'CPU'}."


if __name__ == "__main__":
    sys.exit(main())
