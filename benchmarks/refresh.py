"""How long the page takes to look at a long run again: `python -m benchmarks.refresh`.

Writes a home with a thousand runs, one of them at work with a million lines of metrics, and
measures what one tab costs the page every two seconds: the run and the queue are read, and after a
step every chart is rendered.
"""

from __future__ import annotations

import json
import math
import os
import platform
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote

from starlette.responses import PlainTextResponse, Response

from orpo_qlora.runs.state import RunState

LINES = int(os.environ.get("BENCH_LINES", "1000000"))
RUNS = int(os.environ.get("BENCH_RUNS", "1000"))
EVAL_EVERY = 1000
REPEATS = 30
RESULTS = Path(__file__).parent / "results" / "refresh.md"


def records(first: int, last: int) -> Iterator[dict[str, float]]:
    """Yield the records of a run that learns: every metric of every step, some evaluations."""
    chance = random.Random(first)
    for step in range(first, last + 1):
        learnt = 1 - math.exp(-step / 200_000)
        chosen = -2.5 + learnt + chance.gauss(0, 0.2)
        rejected = -2.6 - learnt + chance.gauss(0, 0.2)
        values = {
            "loss": -chosen + 0.1,
            "nll_loss": -chosen,
            "or_loss": 1 / (1 + math.exp(chosen - rejected)),
            "log_odds_ratio": chosen - rejected,
            "logps/chosen": chosen,
            "logps/rejected": rejected,
            "rewards/chosen": 0.1 * chosen,
            "rewards/rejected": 0.1 * rejected,
            "rewards/margins": 0.1 * (chosen - rejected),
            "rewards/accuracies": float(chance.randrange(9)) / 8,
            "pairs": 8,
            "tokens": chance.randrange(2000, 4000),
            "seconds": 1.5 + chance.random(),
            "peak_memory_bytes": 9_000_000_000,
        }
        yield {"step": step, "epoch": step / 1e5, **values, "grad_norm": 1.0 + chance.random()} | {
            "learning_rate": 1e-5 * (1 - step / 2e6)
        }
        if step % EVAL_EVERY == 0:
            yield {"step": step} | {f"eval/{name}": value for name, value in values.items()}


def make_home() -> str:
    """Write the runs; return the id of the long one."""
    from orpo_qlora.config import build_config
    from orpo_qlora.data.examples import example_path
    from orpo_qlora.data.pairs import load_preferences, split_pairs
    from orpo_qlora.runs import store

    dataset = load_preferences(example_path("hello"))
    split = split_pairs(dataset.pairs, 1, 1)
    state = RunState(status="finished", step=9, total_steps=9, created_at=1.0, ended_at=9.0)
    for number in range(RUNS):
        paths = store.create_run(build_config({"name": f"run {number}"}), split, dataset.report)
        store.write_state(paths, state)
    store.write_state(paths, at_work(LINES))
    with paths.metrics.open("w") as file:
        file.writelines(f"{json.dumps(record)}\n" for record in records(1, LINES))
    return paths.id


def at_work(step: int) -> RunState:
    return RunState(
        status="running", phase="training", step=step, total_steps=2 * LINES, created_at=1.0
    )


Seconds = tuple[float, float]
"""Wall clock, and processor time of this process."""


def seconds_of(job: Callable[[], object]) -> Seconds:
    """Return how long a job takes."""
    wall, own = time.perf_counter(), time.process_time()
    job()
    return time.perf_counter() - wall, time.process_time() - own


def measure(run_id: str) -> dict[str, list[Seconds]]:
    """Return the seconds of every kind of refresh."""
    import gradio as gr

    from orpo_qlora import storage
    from orpo_qlora.runs import store
    from orpo_qlora.ui.runs import tab as runs_tab
    from orpo_qlora.ui.runs.watch import Watch

    with gr.Blocks(), gr.Tabs():
        tab = runs_tab.build()
    paths = store.paths_of(run_id)
    lock = storage.FileLock(paths.lock)
    lock.acquire()
    watch = Watch(PlainTextResponse(""), runs_tab.advance_queue)
    etag, answers = "", [Response()]

    def open_page() -> None:
        nonlocal etag
        etag = quote((runs_tab.show_updates(tab, run_id) or {})[tab.seen])

    def refresh() -> None:
        answers.append(watch.poll({"run": run_id}, etag))

    times: dict[str, list[Seconds]] = {"cold": [seconds_of(open_page)], "warm": [], "still": []}
    print(f"first poll {times['cold'][0][0]:.2f} s", flush=True)
    times["read"] = [seconds_of(lambda: store.metrics_of(paths))]
    print(f"the rest of the file {times['read'][0][0]:.2f} s", flush=True)
    open_page()
    for step in range(LINES + 1, LINES + REPEATS + 1):
        with paths.metrics.open("a") as file:
            file.writelines(f"{json.dumps(record)}\n" for record in records(step, step))
        store.write_state(paths, at_work(step))
        times["warm"].append(seconds_of(refresh))
        etag = answers[-1].headers["etag"]
        times["still"].append(seconds_of(refresh))
        assert answers[-1].status_code == HTTPStatus.NOT_MODIFIED
    lock.release()
    return times


def report(times: dict[str, list[Seconds]], size: int) -> str:
    """Return the page of results."""
    rows = [
        ("first poll after the page was started", times["cold"]),
        ("reading the rest of the file, in pieces over the next polls", times["read"]),
        ("one more step: read, smooth, thin, render every chart", times["warm"]),
        ("nothing new: 304", times["still"]),
    ]
    lines = ["| what | median | slowest | processor time, median |", "| --- | --- | --- | --- |"]
    for what, found in rows:
        wall, own = zip(*found, strict=True)
        numbers = (statistics.median(wall), max(wall), statistics.median(own))
        lines.append(f"| {what} | {' | '.join(f'{1000 * one:,.0f} ms' for one in numbers)} |")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    table = "\n".join(lines)
    return (
        f"# Polling a long run\n\nA home of {RUNS:,} runs; the one on screen has "
        f"{LINES:,} steps, {size / 1e6:,.0f} MB of metrics. {REPEATS} refreshes of each kind.\n\n"
        f"{table}\n\nPeak memory of the whole process: {peak / 1e6:,.0f} MB. Measured on "
        f"{os.cpu_count()} CPU cores with Python {platform.python_version()}, load average "
        f"{os.getloadavg()[0]:.1f}: `python -m benchmarks.refresh`. Beside other work the wall "
        "clock counts waiting; processor time does not.\n"
    )


def main() -> None:
    """Write the home, refresh, write the page."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ORPO_QLORA_HOME"] = folder
        from orpo_qlora.runs import store

        run_id = make_home()
        text = report(measure(run_id), store.paths_of(run_id).metrics.stat().st_size)
    print(text)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
