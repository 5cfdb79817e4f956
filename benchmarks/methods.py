"""What DPO costs beside ORPO here, and DPO here beside TRL's DPOTrainer, in one run.

Run: python -m benchmarks.methods --data prefs.csv --pairs 4 --steps 10

Four trainers step in turn on the same pairs, 4-bit weights and adapter, as in `throughput`: DPO
here with the reference kept from before training, DPO here with the reference measured in the step,
ORPO here, and TRL's DPOTrainer at its fastest batch, which measures its reference in the step. With
--out the result is added to a JSON file under benchmarks/results/.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.cells import Cell, make_cell
from benchmarks.peers.turns import Spec
from benchmarks.reporting import Result, save_result, to_entry
from benchmarks.throughput import SCREENING, measure
from benchmarks.trainers import Trainer, TrainerDied

CACHED, LIVE, ORPO = "DPO, reference kept", "DPO, reference in the step", "ORPO"
BATCHES = (1, 2, 4, 8)


def main() -> None:
    """Measure one cell and print seconds per pair and ratios."""
    options = _options()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cell = make_cell(options.data, options.pairs, options.steps + 3, options.model, folder)
        cell = replace(cell, name=f"{cell.name}, methods")
        results = _measured(cell, folder, options.steps)
    print(to_text(cell, results))
    if options.out:
        save_result(options.out, cell, results)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", required=True, help="preference file, or synthetic:PxA")
    parser.add_argument("--pairs", type=int, default=4, help="pairs an optimizer step")
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each trainer")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--out", type=Path, help="JSON file that the result is added to")
    return parser.parse_args()


def _measured(cell: Cell, folder: Path, steps: int) -> list[Result]:
    dpo = replace(cell.spec, method="dpo")
    trl = _best_trl(dpo, folder)
    trainers = [
        Trainer(CACHED, "ours", dpo, folder),
        Trainer(LIVE, "ours", replace(dpo, live_reference=True), folder),
        Trainer(ORPO, "ours", cell.spec, folder),
        trl,
    ]
    return measure(trainers, steps)


def _best_trl(spec: Spec, folder: Path) -> Trainer:
    """Return TRL's DPOTrainer at its fastest batch size, freshly loaded."""
    seconds = {}
    for size in (size for size in BATCHES if spec.pairs_per_step % size == 0):
        try:
            trial = _trl(spec, folder, size)
            seconds[size] = statistics.median(trial.step().seconds for _ in range(SCREENING))
            trial.end()
        except TrainerDied as exc:
            print(f"TRL, batch {size}: {exc}", flush=True)
        else:
            print(f"TRL, batch {size}: {seconds[size]:.2f} s a step", flush=True)
    return _trl(spec, folder, min(seconds, key=seconds.__getitem__))


def _trl(spec: Spec, folder: Path, batch: int) -> Trainer:
    name = f"TRL DPOTrainer, batch {batch}"
    return Trainer(name, "trl_dpo", replace(spec, batch=batch), folder)


def to_text(cell: Cell, results: list[Result]) -> str:
    """Return the cell as a table; time is by the first trainer's for the same step."""
    entry = to_entry(cell, results)
    lines = [
        f"{entry['cell']}, {cell.pairs_per_step} pairs and {cell.unique_tokens:.0f} tokens a step, "
        f"median of {results[0].steps} steps",
        "",
        "| trainer | s/pair | time | GB above weights | first loss |",
        "| --- | --- | --- | --- | --- |",
    ]
    for one in results:
        per_pair = results[0].seconds * one.ratio / cell.pairs_per_step
        memory = one.bytes_above_weights / 1e9
        lines.append(
            f"| {one.name} | {per_pair:.2f} | {one.ratio:.2f} | {memory:.2f} | "
            f"{one.first_loss:.4f} |"
        )
    ratios = {one.name: one.ratio for one in results}
    lines += ["", f"ORPO by DPO with the reference in the step: {ratios[ORPO] / ratios[LIVE]:.2f}"]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
