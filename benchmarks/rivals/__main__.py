"""Train the study's variants, draw its pictures and write docs/orpo-and-its-rivals.md.

Run: python -m benchmarks.rivals            (about 20 minutes on two idle CPU cores)
     python -m benchmarks.rivals --draw     (pictures and tables from the kept results alone)

The results are kept after every training, so an interrupted run continues where it was. The cost
table comes from `python -m benchmarks.methods`.
"""

from __future__ import annotations

import argparse
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import psutil

from benchmarks.rivals import page, study, training
from benchmarks.rivals.results import (
    PairLogps,
    Study,
    Training,
    load_study,
    read_study,
    write_study,
)

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data" / "alpaca_eval_davinci.csv"
RESULTS = ROOT / "benchmarks" / "results" / "rivals.json"
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")


def main() -> None:
    """Train what is missing, then draw and write."""
    options = _options()
    if not options.draw:
        _complete(options.data, options.workers)
    page.write(load_study(RESULTS))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA, help="preference file")
    parser.add_argument("--draw", action="store_true", help="train nothing")
    cores = psutil.cpu_count(logical=False) or 1
    parser.add_argument("--workers", type=int, default=cores, help="trainings at a time")
    return parser.parse_args()


def _complete(data: Path, workers: int) -> None:
    """Do every training that the results lack, one thread each."""
    found = read_study(RESULTS, _about(data))
    every = [(name, seed) for seed in study.SEEDS for name in study.VARIANTS]
    wanted = [one for one in every if not found.has(*one)]
    wanted.sort(key=lambda one: one[0] == study.DPO.name)  # the pictures need the others first
    os.environ["OMP_NUM_THREADS"] = "1"  # of the workers: two threads would wait for each other
    started = time.monotonic()
    with ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=training.prepare, initargs=(data, 1)
    ) as pool:
        base = [pool.submit(training.measure_base)] if found.base is None else []
        futures = [*base, *(pool.submit(training.train, *one) for one in wanted)]
        for future in as_completed(futures):
            _add(found, future.result())
            write_study(RESULTS, found)
            minutes = (time.monotonic() - started) / 60
            print(f"{len(found.trainings)} trainings, {minutes:.1f} minutes", flush=True)


def _add(found: Study, result: PairLogps | Training) -> None:
    if isinstance(result, Training):
        found.trainings.append(result)
    else:
        found.base = result


def _about(data: Path) -> dict[str, object]:
    split = study.split_of(data)
    return {
        "data": data.stem,
        "longest_characters": study.LONGEST_CHARACTERS,
        "training_pairs": len(split.train),
        "held_out_pairs": len(split.held_out),
        "steps": study.STEPS,
        "pairs_per_step": study.PAIRS_PER_STEP,
        "settings": {
            name: study.config_of(variant, 0).model_dump(mode="json", by_alias=True)
            for name, variant in study.VARIANTS.items()
        },
        "versions": {name: version(name) for name in PACKAGES},
    }


if __name__ == "__main__":
    main()
