"""One process against several on the same cores: time of a step, and whether numbers are the same.

Run: python -m benchmarks.processes [--rounds 3] [--steps 4] [--pairs 8]

The demo model in NF4 takes the same steps (gradients only, the adapter stays as it is) on the pairs
of the example `short_answers`: with one process that has all threads, and with two, started by
torchrun over gloo, that have half of them each. In turn, so that both see the same machine. Three
and four processes take part in the first round, for their numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from orpo_qlora.config import TrainConfig
from orpo_qlora.data.examples import example_path
from orpo_qlora.data.pairs import load_preferences
from orpo_qlora.models.loading import attach_new_adapter, load_base
from orpo_qlora.orpo.engine import build_engine
from orpo_qlora.orpo.loss import loss_for, needs_of
from orpo_qlora.orpo.processes.ranks import ALONE
from orpo_qlora.orpo.rows.tokens import tokenize_pairs
from orpo_qlora.orpo.step import accumulate_step
from orpo_qlora.orpo.verify.parity import fill_adapter
from orpo_qlora.runs.process.shared.process_count import threads_of_each

RESULT = Path(__file__).parent / "results" / "processes.md"
MODULE = "benchmarks.processes"
TOKENS = 1024
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-3
TIMED, COMPARED = (1, 2), (2, 3, 4)
METRICS = ("loss", "nll_loss", "or_loss", "log_odds_ratio", "logps/chosen", "logps/rejected")


@dataclass(frozen=True)
class Job:
    """What each process of a measurement computes."""

    folder: Path
    steps: int
    pairs: int
    model: str


def measure(job: Job) -> None:
    """Take the steps as one of the processes; rank 0 writes times, metrics and gradients."""
    ranks = ALONE
    if "RANK" in os.environ:
        from orpo_qlora.orpo.processes.process_group import ProcessGroup

        ranks = ProcessGroup.from_environment()
    config = TrainConfig(model=job.model, pairs_per_step=job.pairs)
    base = load_base(config.model)
    torch.manual_seed(0)
    policy = attach_new_adapter(base, config)
    fill_adapter(policy)
    data = load_preferences(example_path("short_answers"))
    pairs = tokenize_pairs(base.tokenizer, data.pairs, config.max_length, config.over_length).pairs
    engine, loss = build_engine(policy, needs_of(config), pairs), loss_for(config)
    trained = [p for p in policy.parameters() if p.requires_grad]
    ranks.prepare(trained)
    policy.train()
    seconds, records = [], []
    for step in range(job.steps + 1):  # the first one is a warm-up
        chosen = [pairs[(step * job.pairs + at) % len(pairs)] for at in range(job.pairs)]
        policy.zero_grad()
        ranks.any(False)  # all begin together
        began = time.perf_counter()
        records.append(accumulate_step(engine, chosen, loss, TOKENS, torch.Tensor.backward, ranks))
        ranks.sum_gradients()
        seconds.append(time.perf_counter() - began)
    if ranks.is_first:
        named = {n: p.grad.contiguous() for n, p in policy.named_parameters() if p.grad is not None}
        save_file(named, job.folder / "gradients.safetensors")
        text = json.dumps({"seconds": seconds[1:], "records": records})
        (job.folder / "steps.json").write_text(text, encoding="utf-8")


def start(processes: int, job: Job) -> None:
    """Run a measurement with so many processes that share the cores."""
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone"]
        launcher += ["--nproc-per-node", str(processes)]
    job.folder.mkdir()
    options = ["--worker", str(job.folder), "--steps", str(job.steps), "--pairs", str(job.pairs)]
    options += ["--model", job.model]
    threads = {"OMP_NUM_THREADS": str(threads_of_each(processes)), "TOKENIZERS_PARALLELISM": "0"}
    command = [*launcher, "-m", MODULE, *options]
    done = subprocess.run(
        command, check=False, env=os.environ | threads, stderr=subprocess.PIPE, text=True
    )
    if done.returncode:
        sys.exit(f"{processes} processes ended with code {done.returncode}:\n{done.stderr}")


@dataclass(frozen=True)
class Difference:
    """How far the numbers of some processes are from those of one."""

    loss: float
    """Largest relative difference of loss, its parts and log-probs."""
    gradients: float
    """Largest relative L2 difference of a LoRA gradient."""

    @property
    def is_rounding(self) -> bool:
        """Whether both are within their tolerance."""
        return self.loss <= LOSS_TOLERANCE and self.gradients <= GRADIENT_TOLERANCE


def difference(one: Path, several: Path) -> Difference:
    """Compare what two measurements have written."""
    left, right = (
        json.loads((folder / "steps.json").read_text(encoding="utf-8"))["records"]
        for folder in (one, several)
    )
    off = max(
        abs(second[name] - first[name]) / max(abs(first[name]), 0.01)
        for first, second in zip(left, right, strict=True)
        for name in METRICS
    )
    wanted, found = (load_file(folder / "gradients.safetensors") for folder in (one, several))
    far = max(float((found[name] - wanted[name]).norm() / wanted[name].norm()) for name in wanted)
    return Difference(off, far)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument(
        "--model", default=TrainConfig().model, help="Another one: no results file."
    )
    parser.add_argument("--worker", type=Path)
    options = parser.parse_args()
    if options.worker is not None:
        measure(Job(options.worker, options.steps, options.pairs, options.model))
        return
    seconds: dict[int, list[float]] = {}
    with tempfile.TemporaryDirectory() as made:
        for at in range(options.rounds):
            for processes in TIMED if at else sorted({*TIMED, *COMPARED}):
                folder = Path(made) / f"{processes}-{at}"
                start(processes, Job(folder, options.steps, options.pairs, options.model))
                found = json.loads((folder / "steps.json").read_text(encoding="utf-8"))
                seconds.setdefault(processes, []).extend(found["seconds"])
                print(f"{processes}: {statistics.median(found['seconds']):.2f} s a step")
        off = {
            processes: difference(Path(made) / "1-0", Path(made) / f"{processes}-0")
            for processes in COMPARED
        }
    for processes, far in off.items():
        print(f"{processes}: loss differs by {far.loss:.1e}, gradients by {far.gradients:.1e}")
    if options.model == TrainConfig().model:
        write(seconds, off, options)
    if not all(far.is_rounding for far in off.values()):
        sys.exit(1)


def write(
    seconds: dict[int, list[float]], off: dict[int, Difference], options: argparse.Namespace
) -> None:
    """Write the results file."""
    alone = statistics.median(seconds[1])
    rows = "\n".join(
        f"| {processes} | {threads_of_each(processes)} | {statistics.median(values):.2f} s | "
        f"{min(values):.2f} to {max(values):.2f} s | {alone / statistics.median(values):.2f} | "
        + (f"{far.loss:.1e} | {far.gradients:.1e} |" if (far := off.get(processes)) else "| |")
        for processes, values in sorted(seconds.items())
    )
    RESULT.write_text(
        f"""# One process against several at equal cores

The demo model in NF4, float32, {options.pairs} pairs a step of the example `short_answers`, over
gloo. One and two processes take {options.rounds} rounds of {options.steps} steps in turn; three and
four take one round.

| processes | threads of each | median step | range | speed | loss | gradients |
| --- | --- | --- | --- | --- | --- | --- |
{rows}

Loss: largest relative difference of loss, its parts and log-probs from one process (tolerance
{LOSS_TOLERANCE:.0e}). Gradients: largest relative L2 difference of a LoRA gradient (tolerance
{GRADIENT_TOLERANCE:.0e}).

{os.cpu_count()} CPU cores, {platform.machine()}, torch {version("torch")}. GPUs: not measured.

Rerun: `python -m benchmarks.processes`.
""",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
