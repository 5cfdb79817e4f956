"""Twenty people watch a run, upload and chat: does anything fail, and what does it cost training?

`python -m benchmarks.load` writes benchmarks/results/load.md. One run trains a small model while
short phases alternate, nobody there and somebody there, so that a slow minute of the machine is
slow for both: first with twenty tabs that watch, some of them uploading, then with two more that
chat. What a step takes is the worker's own `seconds`. The visitors send the requests that the
page's script would send, from this machine, and leave what comes packed; what they cost is told
apart.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import psutil
from serving import serving
from tiny import make_tiny_model

from benchmarks.audience import CHATTERS, TABS, TICK_SECONDS, UPLOAD_EVERY_SECONDS, WORDS, Crowd
from benchmarks.soak_checks import programs, wait_until
from benchmarks.soak_programs import end_everything
from orpo_qlora import storage
from orpo_qlora.chat import client
from orpo_qlora.config import build_config
from orpo_qlora.data.pairs import PreferenceData, PreferencePair
from orpo_qlora.data.summary import DataSummary
from orpo_qlora.runs import store
from orpo_qlora.runs.process import launch
from orpo_qlora.runs.store import RunPaths

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "load.md"
ROWS = 500
Middle = Callable[[list[float]], float]
MODEL = {"hidden": 512, "layers": 8, "heads": 8, "kv_heads": 4}
"""Large enough that a step is arithmetic, as it is with real models, and not Python."""
PARAMETERS = "19 million"
QUIET, WATCHED, CHATTED = "nobody there", "20 tabs, uploads", "20 tabs, uploads, chats"
VERSIONS = ("torch", "transformers", "peft", "gradio")
SETTLE_SECONDS = 1.0
"""Between two phases: what was begun in the first ends."""
LOADING_SECONDS = 90.0
"""Before each kind of audience: everybody opens the page; the chat loads its models and spends what
it had saved up."""
PATIENCE_SECONDS = 900.0
WHO = ("worker", "page", "chat", "visitors")


def pairs(count: int) -> PreferenceData:
    """Return pairs of one length, so that every step is the same work."""
    chance = random.Random(3)
    made = tuple(
        PreferencePair(
            *(" ".join(chance.choices(WORDS, k=words)) for words in (12, 24, 24)), row + 1
        )
        for row in range(count)
    )
    report = DataSummary(source="words.csv", sha256="ef" * 32, rows_read=count, pairs=count)
    return PreferenceData(made, report)


def train(model: Path, name: str, **settings: object) -> RunPaths:
    always = {"model": str(model), "name": name, "held_out": 0.0, "pairs_per_step": 2}
    always |= {"sample_prompts": ["What is time?"]}
    return launch.start_run(build_config({**always, **settings}), pairs(200))


@dataclass
class Block:
    """One kind of audience: phases with it, and a phase without it before and after each."""

    kind: str
    seconds: dict[bool, list[list[float]]] = field(default_factory=lambda: {False: [], True: []})
    """Of each step, phase by phase, by whether the audience was there."""
    cores: dict[bool, list[float]] = field(default_factory=lambda: {False: [], True: []})
    """That the worker used in each phase."""
    cpu: dict[bool, defaultdict[str, float]] = field(
        default_factory=lambda: {False: defaultdict(float), True: defaultdict(float)}
    )
    wall: dict[bool, float] = field(default_factory=lambda: {False: 0.0, True: 0.0})

    def longer(self, middle: Middle) -> list[float]:
        """Return by what share the middle step was longer, of each phase with the audience."""
        loaded, calm = (list(map(middle, self.seconds[is_there])) for is_there in (True, False))
        return _against_neighbours(loaded, calm)

    def withheld(self) -> list[float]:
        """Return which share of its processor time the worker lost, of each such phase."""
        return [-share for share in _against_neighbours(self.cores[True], self.cores[False])]

    def account(self) -> list[str]:
        """Return how much longer the median and mean step were, and the processor time lost."""
        found = self.longer(statistics.median), self.longer(statistics.mean), self.withheld()
        return list(map(spread, found))


def _against_neighbours(loaded: list[float], calm: list[float]) -> list[float]:
    return [
        value / statistics.mean(calm[place : place + 2]) - 1 for place, value in enumerate(loaded)
    ]


def cpu_seconds(home: Path, page: int) -> dict[str, float]:
    kinds = {
        "page": [psutil.Process(page)],
        "chat": programs(home, client.SERVER),
        "worker": programs(home, launch.WORKER),
        "visitors": [psutil.Process()],
    }
    return {kind: sum(sum(one.cpu_times()[:2]) for one in found) for kind, found in kinds.items()}


def measure(crowd: Crowd, page: int, paths: RunPaths, arguments: argparse.Namespace) -> list[Block]:
    """Alternate the phases and sort the steps of the run into them."""
    blocks = [Block(WATCHED), Block(CHATTED)]
    for block in blocks:
        if block.kind == CHATTED:
            crowd.may_chat.set()
        time.sleep(LOADING_SECONDS)
        phases = [False, *[True, False] * arguments.rounds]
        for is_there in phases:
            crowd.presence.change(is_there=is_there)
            _hold_chat(is_held=not is_there)
            time.sleep(SETTLE_SECONDS)
            _watch(block, page, paths, is_there=is_there, seconds=arguments.phase)
        _hold_chat(is_held=False)
        print(block.kind, *block.account(), len(crowd.errors), sep=" | ", flush=True)
    return blocks


def _hold_chat(*, is_held: bool) -> None:
    """Let the chat stand still in the middle of an answer, or go on: loading it anew costs more."""
    for process in programs(storage.home(), client.SERVER):
        (process.suspend if is_held else process.resume)()


def _watch(block: Block, page: int, paths: RunPaths, *, is_there: bool, seconds: float) -> None:
    first, before = count_steps(paths) + 1, cpu_seconds(storage.home(), page)
    start = time.monotonic()
    time.sleep(seconds)
    used, wall = cpu_seconds(storage.home(), page), time.monotonic() - start
    block.wall[is_there] += wall
    for name in WHO:
        block.cpu[is_there][name] += used[name] - before[name]
    block.cores[is_there].append((used["worker"] - before["worker"]) / wall)
    steps = storage.read_json_lines(paths.metrics)[0]
    # The step in progress at the start belongs to nobody.
    taken = [float(str(step["seconds"])) for step in steps if int(str(step["step"])) > first]
    block.seconds[is_there].append(taken)


def count_steps(paths: RunPaths) -> int:
    return len(storage.read_json_lines(paths.metrics)[0])


def quantiles(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    picked = [ordered[int(share * (len(ordered) - 1))] for share in (0.5, 0.95, 1.0)]
    return " | ".join(f"{value * 1000:,.0f} ms" for value in picked)


def spread(shares: list[float]) -> str:
    """Return the mean and how far it may be off, 19 times out of 20."""
    error = 2 * statistics.stdev(shares) / len(shares) ** 0.5
    return f"{100 * statistics.mean(shares):.1f} ± {100 * error:.1f} %"


def report(blocks: list[Block], crowd: Crowd, arguments: argparse.Namespace) -> str:
    lines = [
        "| phases | steps | median step | longer: median | longer: mean | processor lost | "
        + " | ".join(WHO)
        + " |",
        "| --- " * (6 + len(WHO)) + "|",
    ]
    for block in blocks:
        for is_there in (False, True):
            steps = [value for phase in block.seconds[is_there] for value in phase]
            told = [
                block.kind if is_there else QUIET,
                f"{len(steps)}",
                f"{statistics.median(steps):.3f} s",
                *(words if is_there else "" for words in block.account()),
                *(f"{block.cpu[is_there][name] / block.wall[is_there]:.3f}" for name in WHO),
            ]
            lines.append(f"| {' | '.join(told)} |")
    waits = ["| request | count | median | 95 % | slowest |", "| --- " * 5 + "|"]
    waits += [
        f"| {what} | {len(seconds):,} | {quantiles(seconds)} |"
        for what, seconds in crowd.seconds.items()
    ]
    versions = ", ".join(f"{name} {version(name)}" for name in VERSIONS)
    return f"""# A run with an audience

One run trains a model of {PARAMETERS} parameters on every core. Phases of {arguments.phase:.0f} s
with an audience alternate with phases without one, {arguments.rounds} times for each audience.
{TABS} tabs watch the run (a look every {TICK_SECONDS:.0f} s, or as much later as the page tells
each tab, as its script does), four of them also upload a CSV of {ROWS} pairs every
{UPLOAD_EVERY_SECONDS:.0f} s; then {CHATTERS} more ask both models, without a pause. The clock of
those who watch and upload stands still while they are not there. A step's time is the worker's own
`seconds`; the median and the mean step of each phase are compared with those of
the two phases around it (mean of {arguments.rounds}, and two standard errors of it). So is the
processor time that the worker got: on a machine that others use too, a step is longer for reasons
of theirs, but what the audience takes is missing there. The last columns are processor cores in
use.

{chr(10).join(lines)}

{len(crowd.errors)} errors. A watching tab received {statistics.mean(crowd.bytes) / 1000:.1f} kB,
packed, a request. Waiting for answers, a chat's including the phases in which it stands still:

{chr(10).join(waits)}

Measured on {psutil.cpu_count(logical=False)} CPU cores with Python {platform.python_version()},
{versions}: `python -m benchmarks.load`; load average {arguments.load:.1f} before it
began. On two cores that training keeps busy, whatever the page computes is taken from it; visitors
in other machines' browsers take nothing.
"""


def write_csv(path: Path) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "chosen", "rejected"])
        writer.writerows([p.prompt, p.chosen, p.rejected] for p in pairs(ROWS).pairs)
    return path


def watch_a_run(
    model: Path, folder: Path, arguments: argparse.Namespace
) -> tuple[Crowd, list[Block]]:
    """Train, let everybody watch, and return what they met and what it cost."""
    chat_run = train(model, "to chat with", max_steps=1)
    wait_until(lambda: store.read_run(chat_run).has_adapter, PATIENCE_SECONDS, "an adapter")
    launch.wait_for(chat_run, PATIENCE_SECONDS)
    long = {"max_steps": 100_000, "checkpoint_every": 100_000, "eval_every": 100_000}
    watched = train(model, "to watch", **long)
    wait_until(lambda: count_steps(watched) > 5, PATIENCE_SECONDS, "training begins")
    with serving(storage.home()) as served:
        crowd = Crowd(served.address, watched.id, chat_run.id, write_csv(folder / "pairs.csv"))
        with crowd.gathered():
            return crowd, measure(crowd, served.pid, watched, arguments)


def main() -> None:
    """Measure in a home of its own and write the account."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=80)
    parser.add_argument("--phase", type=float, default=4.0, help="seconds")
    arguments = parser.parse_args()
    arguments.load = os.getloadavg()[0]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Ended from outside."))
    with tempfile.TemporaryDirectory(prefix="load-") as folder:
        home = Path(folder) / "home"
        home.mkdir(mode=0o700)
        model = make_tiny_model(Path(folder) / "model", **MODEL)
        os.environ |= {
            **{storage.HOME_VARIABLE: str(home), "HF_HUB_OFFLINE": "1"},
            # Programs work elsewhere, and must be those of this checkout.
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        }
        try:
            crowd, blocks = watch_a_run(model, Path(folder), arguments)
        finally:
            end_everything(home)
    RESULTS.write_text(report(blocks, crowd, arguments), encoding="utf-8")
    print(RESULTS.read_text(encoding="utf-8"))
    if crowd.errors:
        sys.exit("\n".join(crowd.errors[:20]))


if __name__ == "__main__":
    main()
