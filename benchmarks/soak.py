"""Fifty runs while page, worker, supervisor and chat are killed at random moments.

`python -m benchmarks.soak [--seed 7]` writes benchmarks/results/soak.md. Most runs have the quick
worker of tests/faults/shim: the real run folder, lock, checkpoints, metrics, launcher and
supervisor, 20 ms a step. The others train a tiny real model. A page that a visitor polls and a chat
in mid-answer are killed too. After each kill the promises of docs/reliability.md are checked.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import psutil
from lesson import lesson
from tiny import make_endless_model

from benchmarks.soak_checks import (
    Broken,
    Witness,
    hold,
    lives,
    nothing_left,
    one_at_work,
    programs,
    same_end,
    wait_for_truth,
    wait_until,
)
from benchmarks.soak_programs import PageUnderFire, Talker, end_everything
from orpo_qlora import storage
from orpo_qlora.chat import client
from orpo_qlora.config import build_config
from orpo_qlora.runs import store
from orpo_qlora.runs.process import launch
from orpo_qlora.runs.process import queue as run_queue
from orpo_qlora.runs.store import RunPaths

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "soak.md"
QUICK = {"max_steps": 70, "checkpoint_every": 7, "held_out": 0.25, "pairs_per_step": 4}
REAL = {
    **{"max_steps": 60, "checkpoint_every": 10, "eval_every": 20, "lora_dropout": 0.1},
    **{"held_out": 0.25, "pairs_per_step": 4},
}
KILLS_A_RUN = (4, 7)
TERM_SHARE = 0.2
PATIENCE_SECONDS = 180.0
VERSIONS = ("torch", "transformers", "peft", "gradio", "psutil")


class Soak:
    """The home under fire and the account of it."""

    def __init__(self, seed: int, home: Path, model: Path) -> None:
        self.seed, self.dice = seed, random.Random(seed)
        self.home, self.model = home, model
        self.kills: Counter[tuple[str, str]] = Counter()
        self.moments: Counter[str] = Counter()
        self.resumes: Counter[str] = Counter()
        self.slowest_truth_seconds = 0.0
        self.witnesses: dict[str, Witness] = {}
        self.left: dict[str, int] = {}
        """Kills still to come, by run."""
        self.page = PageUnderFire(home, Path(os.environ["TMPDIR"]))
        self.talker: Talker

    def start(self, name: str) -> RunPaths:
        settings = REAL if name.startswith("real") else QUICK
        model = {"model": str(self.model), "name": name}
        return launch.start_run(build_config(settings | model), lesson())

    def whole(self, name: str) -> RunPaths:
        """Return a run to which nothing happens."""
        paths = self.start(name)
        finished = f"“{name}” finishes"
        wait_until(lambda: status(paths) == "finished", PATIENCE_SECONDS, finished)
        return paths

    def run(self, quick: int, real: int, seconds: float) -> None:
        """Kill until every run has ended as it should; begin none once the time is over."""
        end = time.monotonic() + seconds
        whole = {kind: self.whole(f"{kind}, left alone") for kind in ("real", "quick")}
        self.talker = Talker(whole["real"], self.seed)
        names = [f"quick {i}" for i in range(quick)] + [f"real {i}" for i in range(real)]
        self.dice.shuffle(names)
        with self.page, self.talker:
            for name in names:
                paths = self.start(name)
                self.witnesses[paths.id] = Witness(paths)
                self.left[paths.id] = self.dice.randint(*KILLS_A_RUN)
            while not all(status(w.paths) == "finished" for w in self.witnesses.values()):
                self.round()
                self.say_progress()
                if time.monotonic() > end:
                    self.take_out_the_rest()
            self.talker.stop()
            ended = self.talker.lost + self.talker.stopped
            hold("no answer is lost without a kill", ended <= self.total("chat"), ended)
        client.release()
        wait_until(lambda: not programs(self.home), PATIENCE_SECONDS, "every program ends")
        for witness in self.witnesses.values():
            witness.after_a_death()
            name = store.read_run(witness.paths).title.split()[0]
            same_end(witness.paths, whole[name])
        hold("the queue is empty", not run_queue.queued_runs())
        nothing_left(self.home, self.page.temporary)

    def say_progress(self) -> None:
        ended = sum(status(each.paths) == "finished" for each in self.witnesses.values())
        print(f"{sum(self.kills.values())} kills, {ended} runs", end="\r", flush=True)

    def take_out_the_rest(self) -> None:
        for run in run_queue.queued_runs():
            if run.state.started_at == 0 and run.id in self.witnesses:
                launch.stop_run(run.paths)
                del self.witnesses[run.id]

    def round(self) -> None:
        """Kill a random process at a random moment, check, and recover as a user would."""
        self.page.keep_open()
        self.settle()
        active = store.active_run()
        if active is not None and active.id in self.witnesses:
            self.await_moment(active.paths)
        chosen = self.dice.random()
        if chosen < 0.15:
            self.strike("page", self.page.victims())
        elif chosen < 0.30:
            self.strike("chat", programs(self.home, client.SERVER))
        elif active is not None and self.left.get(active.id, 0) > 0:
            self.strike_run(active.paths)
        one_at_work(self.home)
        self.page.is_well()
        self.talker.is_well()

    def await_moment(self, paths: RunPaths) -> None:
        """Wait for any time, or for some steps, whichever the dice say."""
        if self.dice.random() < 0.4:
            time.sleep(self.dice.uniform(0.0, 2.0))
            return
        step = store.read_run(paths).state.step + self.dice.randint(1, 25)
        end = time.monotonic() + 20.0
        while time.monotonic() < end:
            run = store.read_run(paths)
            if run.state.step >= step or not run.is_at_work:
                break
            time.sleep(0.005)
        time.sleep(self.dice.uniform(0.0, 0.05))

    def strike_run(self, paths: RunPaths) -> None:
        """Kill what is at work on a run: its worker, its supervisor, or both at once."""
        witness, folder = self.witnesses[paths.id], str(paths.folder)
        witness.look()
        both = ["supervisor", "worker"]
        victims = self.dice.choice([["worker"], ["worker"], ["supervisor"], both])
        modules = {"worker": launch.WORKER, "supervisor": launch.SUPERVISOR}
        found = {name: programs(self.home, modules[name], folder) for name in victims}
        if not any(found.values()):
            return
        state = store.read_run(paths).state
        is_term = self.dice.random() < TERM_SHARE
        self.left[paths.id] -= 1
        for name in victims:
            self.strike(name, found[name], is_term=is_term)
        if programs(self.home, launch.WORKER, folder):
            return
        self.moments[state.phase or state.status] += 1
        # A supervisor that was about to start the worker may still do so.
        if programs(self.home, launch.SUPERVISOR, folder):
            self.await_supervisor(paths)
            return
        self.slowest_truth_seconds = max(self.slowest_truth_seconds, wait_for_truth(paths))
        witness.after_a_death()
        self.page.tells_the_truth(paths)

    def await_supervisor(self, paths: RunPaths) -> None:
        """The supervisor of a dead worker says how it ended."""

        def cause_is_named() -> bool:
            run = store.read_run(paths)
            if run.is_at_work or run.state.status in {"finished", "stopped"}:
                return True
            card = run.state.error
            return card is not None and "SIGKILL" in card.message

        wait_until(cause_is_named, PATIENCE_SECONDS, "the supervisor names the cause")
        if not store.read_run(paths).is_at_work:
            self.witnesses[paths.id].after_a_death()
            self.page.tells_the_truth(paths)

    def strike(
        self, name: str, victims: list[psutil.Process], *, is_term: bool | None = None
    ) -> None:
        """End programs by signal and wait until they are gone."""
        if is_term is None:
            is_term = self.dice.random() < TERM_SHARE
        number = signal.SIGTERM if is_term else signal.SIGKILL
        for process in victims:
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue
            self.kills[name, number.name] += 1
        if name == "supervisor" and is_term:
            return  # it waits for its worker
        ended = f"{number.name} ends a {name}"
        wait_until(lambda: not any(map(lives, victims)), PATIENCE_SECONDS, ended)

    def total(self, name: str) -> int:
        """Return how often a kind of program was ended."""
        return sum(count for (victim, _), count in self.kills.items() if victim == name)

    def settle(self) -> None:
        """Resume what broke, from the page or a terminal, and check the queue."""
        for witness in self.witnesses.values():
            run = store.read_run(witness.paths)
            hold("no run fails", run.state.status != "failed", run.state, store.log_tail(run.paths))
            if not run.is_resumable or programs(self.home, launch.WORKER, str(run.paths.folder)):
                continue
            witness.after_a_death()
            way = "page" if self.dice.random() < 0.5 and self.page.resume(run.paths) else "terminal"
            # The page may have been ended after it did what it was asked.
            if way == "terminal" and store.read_run(run.paths).is_resumable:
                step = launch.resume_run(run.paths)
                hold("resume is from the newest checkpoint", step == witness.checkpoint, step)
            witness.after_resuming()
            self.resumes[way] += 1
        launch.start_next()


def status(paths: RunPaths) -> str:
    return store.read_run(paths).state.status


def table(rows: list[tuple[object, ...]]) -> str:
    lines = [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join([lines[0], "| --- " * len(rows[0]) + "|", *lines[1:]])


def report(soak: Soak, seed: int, runs: tuple[int, int], minutes: float) -> str:
    names = ("worker", "supervisor", "page", "chat")
    kills = [
        (name, soak.kills[name, "SIGKILL"], soak.kills[name, "SIGTERM"], soak.total(name))
        for name in names
    ]
    looks = sum(witness.looks for witness in soak.witnesses.values())
    versions = ", ".join(f"{name} {version(name)}" for name in VERSIONS)
    moments = [(moment, count) for moment, count in soak.moments.most_common()]
    return f"""# Runs under fire

{sum(runs)} runs, {runs[0]} with the quick worker of the tests (20 ms a step, everything but the
model real) and {runs[1]} that train a tiny real model, were brought to their end while programs
were killed at random moments; what broke was resumed, {soak.resumes["page"]} times from the page
and {soak.resumes["terminal"]} times as a terminal does. Seed {seed}, {minutes:.0f} minutes.

{table([("killed", "SIGKILL", "SIGTERM", "together"), *kills])}

{sum(soak.kills.values())} kills. What a run was doing when its worker died:

{table([("phase", "deaths"), *moments])}

Held after every one of them ({looks:,} checks of metrics and checkpoints), and at the end:

- every metrics line that was there before a kill was there after it; steps were consecutive, each
  once, at every check;
- the newest checkpoint matched its manifest, and no fewer than two stayed once there had been two;
- no state spoke of a worker that was gone: the slowest took
  {soak.slowest_truth_seconds:.2f} s; the page said the same ({soak.page.truths} times asked);
- a dead worker's supervisor, where it lived, named the signal;
- no two workers lived at once;
- all runs finished with the metrics, sample answers and (real ones) adapter bytes of a run to which
  nothing happened;
- {soak.talker.answers} chat answers came whole, {soak.talker.hung_up} were hung up on,
  {soak.talker.lost + soak.talker.stopped} ended with the chat process and said so;
- the visitor of the page asked {soak.page.asked:,} times and never got an internal error;
- no process, lock, half-made file or folder of a dead page was left.

Measured on {psutil.cpu_count(logical=False)} CPU cores with Python {platform.python_version()},
{versions}: `python -m benchmarks.soak {" ".join(sys.argv[1:])}`.
"""


def main() -> None:
    """Run the soak in a home of its own and write the account."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--quick", type=int, default=45, help="runs with the quick worker")
    parser.add_argument("--real", type=int, default=5, help="runs with a tiny real model")
    parser.add_argument("--minutes", type=float, default=120, help="begin no run after so many")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Ended from outside."))
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as folder:
        home, temporary = Path(folder) / "home", Path(folder) / "tmp"
        temporary.mkdir()
        home.mkdir(mode=0o700)
        paths = [ROOT / "tests" / "faults" / "shim", ROOT, os.environ.get("PYTHONPATH", "")]
        os.environ |= {
            **{storage.HOME_VARIABLE: str(home), "TMPDIR": str(temporary), "FAKE_WORKER": "quick"},
            **{"PYTHONPATH": os.pathsep.join(map(str, filter(None, paths)))},
            **{"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
        }
        soak = Soak(arguments.seed, home, make_endless_model(Path(folder) / "model"))
        try:
            soak.run(arguments.quick, arguments.real, arguments.minutes * 60)
        except Broken as exc:
            sys.exit(f"After {sum(soak.kills.values())} kills {dict(soak.kills)}: {exc}")
        finally:
            end_everything(home)
        names = [store.read_run(each.paths).title for each in soak.witnesses.values()]
    counts = tuple(sum(name.startswith(kind) for name in names) for kind in ("quick", "real"))
    text = report(soak, arguments.seed, counts, (time.monotonic() - start) / 60)
    RESULTS.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
