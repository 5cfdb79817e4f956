"""What DPO costs beside ORPO, here and in TRL, in one run.

Run: python -m benchmarks.methods --data prefs.csv --pairs 4 --steps 10 --out FILE.json

Five trainers step in turn on the same pairs, 4-bit weights and adapter, as in `throughput`: DPO
here with the reference kept from before training, DPO here with the reference measured in the
step, ORPO here, and TRL's DPOTrainer at its fastest batch and ORPOTrainer at the same one. TRL's
DPOTrainer measures its reference in the step, as by default. Where other programs use the machine,
compare processor time: wall time also counts waiting. With --out the cell is added to a JSON file,
and the tables of all its cells are written beside it as Markdown.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.cells import LONGEST, Cell, make_cell
from benchmarks.method_tables import (
    CACHED,
    LIVE,
    ORPO,
    TRL_DPO,
    TRL_ORPO,
    WARM_UP,
    ratios_of,
    to_text,
    write_page,
)
from benchmarks.reporting import save_entry, to_entry
from benchmarks.throughput import fastest, step_in_turn, summed_up
from benchmarks.trainers import Trainer


def main() -> None:
    """Measure one cell and print seconds per pair and ratios."""
    options = _options()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        steps = options.steps + WARM_UP
        cell = make_cell(
            *(options.data, options.pairs, steps, options.model, folder), longest=options.longest
        )
        replies = step_in_turn(_trainers(cell, folder, options.batch), steps)
    entry = to_entry(cell, summed_up(replies, WARM_UP)) | {"ratios": ratios_of(replies)}
    print(to_text(entry))
    if options.out:
        save_entry(options.out, entry)
        write_page(options.out)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", required=True, help="preference file, or synthetic:PxA")
    parser.add_argument("--pairs", type=int, default=4, help="pairs an optimizer step")
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each trainer")
    parser.add_argument("--longest", type=int, default=LONGEST, help="tokens of the longest pair")
    parser.add_argument("--batch", type=int, default=0, help="TRL's batch; 0 tries all")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--out", type=Path, help="JSON file that the result is added to")
    return parser.parse_args()


def _trainers(cell: Cell, folder: Path, batch: int) -> list[Trainer]:
    dpo = replace(cell.spec, method="dpo")
    rival = fastest(TRL_DPO, "trl_dpo", dpo, folder, batch)
    # `throughput` measures ORPOTrainer at its own fastest batch.
    size = int(rival.name.rpartition(" ")[2])
    peers = [rival, fastest(TRL_ORPO, "trl", cell.spec, folder, size)]
    return [
        Trainer(CACHED, "ours", dpo, folder),
        Trainer(LIVE, "ours", replace(dpo, live_reference=True), folder),
        Trainer(ORPO, "ours", cell.spec, folder),
        *peers,
    ]


if __name__ == "__main__":
    main()
