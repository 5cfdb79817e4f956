"""Pairs a second against other trainers, on the same pairs, weights, adapter and arithmetic.

Run: python -m benchmarks.throughput --data prefs.csv --pairs 8 --peers trl
     python -m benchmarks.throughput --data synthetic:1024x64 --pairs 2 --peers trl
     python -m benchmarks.throughput --data prefs.csv --pairs 8 --ablate
     python -m benchmarks.throughput --data prefs.csv --pairs 8 --larger 64 --steps 4

Every trainer is a separate program that steps on request; they step in turn, so that a slow
minute of the machine is slow for all. TRL is first tried at each batch size that divides `--pairs`;
the fastest one is then measured. `synthetic:PxA` is pairs of random tokens, prompts of P and
answers of A. With --out the result is added to a JSON file under benchmarks/results/.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.cells import Cell, make_cell
from benchmarks.peers.turns import Spec
from benchmarks.reporting import Result, save_entry, to_entry, to_markdown
from benchmarks.trainers import Reply, Trainer, TrainerDied

TECHNIQUES = (
    "sharing",
    "tiled-head",
    "fused-linears",
    "fused-blocks",
    "long-forwards",
    "kept-activations",
    "unpacking",
)
BATCHES = (1, 2, 4, 8)
WARM_UP = 3
SCREENING = 3


def main() -> None:
    """Measure one cell and print it."""
    options = _options()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        steps = (options.steps + WARM_UP) * max(1, options.larger // options.pairs)
        cell = make_cell(options.data, options.pairs, steps, options.model, folder)
        if options.ablate:
            results = _ablate(cell, folder, options.steps)
        elif options.larger:
            results = _enlarge(cell, folder, options)
        else:
            results = _compare(cell, folder, options)
    entry = to_entry(cell, results)
    print(to_markdown(entry))
    if options.out:
        save_entry(options.out, entry)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", required=True, help="preference file, or synthetic:PxA")
    parser.add_argument("--pairs", type=int, default=8, help="pairs an optimizer step")
    parser.add_argument("--peers", default="trl", help="trl,llama-factory")
    parser.add_argument("--steps", type=int, default=30, help="timed steps of each trainer")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--batch", type=int, default=0, help="TRL's batch; 0 tries all")
    parser.add_argument("--ablate", action="store_true", help="one technique off at a time")
    parser.add_argument("--larger", type=int, default=0, help="the same pairs in larger steps")
    parser.add_argument("--llama-factory-python", default="", help="its environment's python")
    parser.add_argument("--out", type=Path, help="JSON file that the result is added to")
    return parser.parse_args()


def _compare(cell: Cell, folder: Path, options: argparse.Namespace) -> list[Result]:
    ours = Trainer("orpo-qlora", "ours", cell.spec, folder)
    gemm = Trainer("GEMM", "gemm", cell.spec, folder)
    rivals = []
    for peer in options.peers.split(","):
        if peer == "trl":
            rivals.append(_best_trl(cell.spec, folder, options.batch))
        elif peer == "llama-factory":
            python = options.llama_factory_python or sys.exit("give --llama-factory-python")
            spec = replace(cell.spec, batch=1)
            rivals.append(Trainer("LLaMA-Factory", "llama_factory", spec, folder, python))
        else:
            sys.exit(f"no peer “{peer}”")
    return measure([ours, *rivals, gemm], options.steps)


def _best_trl(spec: Spec, folder: Path, batch: int) -> Trainer:
    """Return TRL at its fastest batch size, freshly loaded."""
    return fastest("TRL", "trl", spec, folder, batch)


def fastest(title: str, program: str, spec: Spec, folder: Path, batch: int = 0) -> Trainer:
    """Return a peer at its fastest batch size, freshly loaded; 0 tries all that divide a step."""

    def loaded(size: int) -> Trainer:
        return Trainer(f"{title}, batch {size}", program, replace(spec, batch=size), folder)

    sizes = [batch] if batch else [size for size in BATCHES if spec.pairs_per_step % size == 0]
    if len(sizes) > 1:
        seconds = {}
        for size in sizes:
            try:
                trial = loaded(size)
                seconds[size] = statistics.median(trial.step().seconds for _ in range(SCREENING))
                trial.end()
            except TrainerDied as exc:
                print(f"{title}, batch {size}: {str(exc)[:60]}", flush=True)
            else:
                print(f"{title}, batch {size}: {seconds[size]:.2f} s a step", flush=True)
        sizes = [min(seconds, key=seconds.__getitem__)]
    return loaded(sizes[0])


def _ablate(cell: Cell, folder: Path, steps: int) -> list[Result]:
    """Return our trainer whole and without each technique; two loaded at a time."""
    results = []
    for technique in TECHNIQUES:
        whole = Trainer("orpo-qlora", "ours", cell.spec, folder)
        name = "kept unpacked" if technique == "unpacking" else f"without {technique}"
        lesser = Trainer(name, "ours", replace(cell.spec, without=technique), folder)
        measured = measure([whole, lesser], steps)
        results += measured if not results else measured[1:]
        print(f"{name}: {measured[1].ratio:.2f}", flush=True)
    return results


def _enlarge(cell: Cell, folder: Path, options: argparse.Namespace) -> list[Result]:
    """Return our trainer at two sizes of a step, timed over the same pairs, per small step."""
    many = options.larger // options.pairs
    small = Trainer(f"{options.pairs} pairs a step", "ours", cell.spec, folder)
    spec = replace(cell.spec, pairs_per_step=options.larger)
    large = Trainer(f"{options.larger} pairs a step", "ours", spec, folder)
    sums: list[Reply] = []
    wholes: list[Reply] = []
    for _ in range(WARM_UP + options.steps):
        parts = [small.step() for _ in range(many)]
        seconds = sum(part.seconds for part in parts) / many
        peak = max(part.bytes_above_weights for part in parts)
        sums.append(replace(parts[0], seconds=seconds, bytes_above_weights=peak))
        whole = large.step()
        wholes.append(replace(whole, seconds=whole.seconds / many))
    small.end()
    large.end()
    return [
        Result.of(trainer.name, replies, sums, WARM_UP)
        for trainer, replies in ((small, sums), (large, wholes))
    ]


def measure(trainers: list[Trainer], steps: int) -> list[Result]:
    """Let the trainers step in turn and sum up."""
    return summed_up(step_in_turn(trainers, WARM_UP + steps), WARM_UP)


def step_in_turn(trainers: list[Trainer], steps: int) -> dict[str, list[Reply]]:
    """Return the replies of trainers by name; they step in turn, the order reversed every time."""
    replies: dict[str, list[Reply]] = {trainer.name: [] for trainer in trainers}
    for number in range(steps):
        for trainer in trainers if number % 2 else reversed(trainers):
            replies[trainer.name].append(trainer.step())
        print(f"step {number + 1} of {steps}", file=sys.stderr, flush=True)
    for trainer in trainers:
        trainer.end()
    return replies


def summed_up(replies: dict[str, list[Reply]], warm_up: int) -> list[Result]:
    """Return the numbers of trainers beside the first one's."""
    first = next(iter(replies.values()))
    return [Result.of(name, own, first, warm_up) for name, own in replies.items()]


if __name__ == "__main__":
    main()
