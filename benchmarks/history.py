"""How long the page takes to show a thousand runs, and one of a million steps among them.

`python -m benchmarks.history` makes a home with them, opens the real page on it and asks it over
HTTP for what its timer asks for; it writes benchmarks/results/history.md. Each row is the median of
several requests, in milliseconds from the question to the whole answer, and beside it the processor
time of this process, which other work on the machine does not lengthen.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RUNS = int(os.environ.get("BENCH_RUNS", "1000"))
LINES = int(os.environ.get("BENCH_LINES", "1000000"))
REQUESTS = 15
PORT = 7869
RESULTS = Path(os.environ.get("BENCH_RESULTS", Path(__file__).parent / "results" / "history.md"))


def make_home() -> list[str]:
    """Write the runs by the real store; return their ids, the one of a million steps first."""
    from orpo_qlora.config import build_config
    from orpo_qlora.data.pairs import PreferencePair, Split
    from orpo_qlora.data.summary import DataSummary
    from orpo_qlora.runs import store
    from orpo_qlora.runs.labels import RunLabel
    from orpo_qlora.runs.state import RunState
    from orpo_qlora.runs.store import RunPaths

    os.fsync = lambda _: None  # nothing here has to outlive a power cut
    pairs = tuple(PreferencePair(f"q{i}", f"good {i}", f"bad {i}", i) for i in range(1, 41))
    report = DataSummary(source="pairs.csv", sha256="ab" * 32, rows_read=40, pairs=40)
    ids = []
    for number in range(RUNS):
        settings: dict[str, object] = {"name": f"run {number}", "lambda": 0.1 * (number % 5)}
        tags = ("night",) if number % 3 else ()
        split = Split(pairs[:30], pairs[30:])
        made = store.create_run(build_config(settings), split, report, label=RunLabel(tags=tags))
        # Hundreds are made in a second, more than ids of one second can tell apart.
        folder = made.folder.with_name(f"20260101-{number:06d}-{number % 65536:04x}")
        paths = RunPaths(made.folder.rename(folder))
        ended = RunState(
            status="finished", step=200, total_steps=200, created_at=time.time() - number
        )
        store.write_state(paths, ended)
        write_metrics(paths.metrics, LINES if number == 0 else 200)
        ids.append(paths.id)
    # As old as the runs of somebody who comes back: see file_memory.py.
    before = time.time() - 3600
    for path in store.runs_folder().glob("*/*"):
        os.utime(path, (before, before))
    return ids


def record(step: int, *, held_out: bool) -> dict[str, object]:
    """Return a line as the worker writes it."""
    value = (step % 97) / 97
    names = (
        *("loss", "nll_loss", "or_loss", "log_odds_ratio", "logps/chosen", "logps/rejected"),
        *("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"),
        *("grad_norm", "learning_rate", "pairs", "tokens", "seconds", "peak_memory_bytes"),
    )
    numbers = {f"eval/{name}" if held_out else name: value for name in names}
    return {"step": step, "epoch": step / 100, **numbers}


def write_metrics(path: Path, lines: int) -> None:
    """Write steps and four evaluations."""
    with path.open("w", encoding="utf-8") as file:
        for step in range(1, lines + 1):
            file.write(json.dumps(record(step, held_out=False)) + "\n")
            if step % (lines // 4) == 0:
                file.write(json.dumps(record(step, held_out=True)) + "\n")


class Page:
    """The real page, asked as its own script asks it."""

    def __init__(self) -> None:
        import httpx

        from orpo_qlora.ui.web import serve
        from orpo_qlora.ui.web.security import AllowedHosts

        self._page = serve.open_page(
            "127.0.0.1", PORT, serve._guards(AllowedHosts.of("127.0.0.1"), "", Path.cwd())
        )
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{PORT}", timeout=600)

    def event(self, inputs: list[str], kind: str) -> int:
        """Return the number of the event with these inputs, by the ids of their elements."""
        for number, function in self._page.fns.items():
            if function.fn is None:
                continue
            names = [component.elem_id for component in function.inputs]
            if names[: len(inputs)] == inputs and any(k == kind for _, k in function.targets):
                return int(number)
        raise LookupError(f"no event {kind} with {inputs}")

    def inputs_of(self, event: int) -> int:
        """Return how many values an event takes."""
        return len(self._page.fns[event].inputs)

    def ask(self, event: int, values: list[Any]) -> tuple[float, float, dict[str, Any]]:
        """Return milliseconds, those of the processor, and the answer."""
        began, worked = time.perf_counter(), time.process_time()
        question = {"data": values, "fn_index": event, "session_hash": "bench"}
        answer = self._client.post("/gradio_api/run/predict", json=question)
        spent = 1000 * (time.perf_counter() - began)
        answer.raise_for_status()
        if "Internal error" in answer.text:
            raise RuntimeError(f"event {event} failed")
        return spent, 1000 * (time.process_time() - worked), answer.json()


def measure(page: Page, ids: list[str]) -> list[tuple[str, float, float, float]]:
    """Return for each kind of request: title, first, median and processor time."""
    from orpo_qlora.runs import store

    view = page.event(["run-picker", "compare-ids", "compare-side"], "change")
    tick = page.event(["history-seen", "compare-seen", "run-picker"], "then")
    show = page.event(["run-picker"], "change")
    turn = page.event(["run-picker", "run-seen"], "click")
    nothing = ["", "", "Held-out pairs", "", "", "", "", "newest", "", ""]
    find = [*nothing[:3], "night λ=0.2", *nothing[4:]]
    best = [*nothing[:7], "accuracy", "", ""]
    six = ["", ",".join(ids[:6]), *nothing[2:]]
    choices = [None] * (page.inputs_of(show) - 1)
    spare = [None] * (page.inputs_of(turn) - 2)

    def rows(title: str, event: int, values: list[Any], before: Callable[[], None]) -> Any:
        spent, worked = [], []
        for _ in range(REQUESTS):
            before()
            milliseconds, of_processor, _answer = page.ask(event, values)
            spent.append(milliseconds)
            worked.append(of_processor)
        return title, spent[0], statistics.median(spent[1:]), statistics.median(worked[1:])

    def read(title: str, event: int, values: list[Any]) -> Any:
        polls = [page.ask(event, values)]
        while "Reading what was measured" in json.dumps(polls[-1][2]):
            polls.append(page.ask(event, values))
        spent, worked = [poll[0] for poll in polls], [poll[1] for poll in polls]
        row = f"{title}: {len(polls)} polls until its file is read"
        return row, spent[0], statistics.median(spent), statistics.median(worked)

    def rest() -> None:
        return None

    def go_on() -> None:
        paths = store.paths_of(ids[0])
        with paths.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record(LINES + 1, held_out=False)) + "\n")

    seen = page.ask(view, nothing)[2]["data"]
    mark = next(value for value in seen if isinstance(value, str) and len(value) == 16)
    return [
        rows("the list, drawn whole", view, nothing, rest),
        rows("the list, timer, nothing new", tick, [mark, "", *nothing], rest),
        rows("the list, searched", view, find, rest),
        rows("the list, by accuracy", view, best, rest),
        read("six runs compared, that one among them", view, six),
        rows("the same afterwards", view, six, rest),
        rows("the comparison, timer, a step more", tick, ["", "", *six], go_on),
        rows("a run of a million steps, drawn whole", show, [ids[0], *choices], rest),
        rows("that run, a step more, all by Gradio", turn, [ids[0], "", *spare], go_on),
    ]


def main() -> None:
    """Make the home, open the page, measure, write the table."""
    import psutil

    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ORPO_QLORA_HOME"] = folder
        began = time.perf_counter()
        ids = make_home()
        print(f"home made in {time.perf_counter() - began:.0f} s", flush=True)
        page = Page()
        began = time.perf_counter()
        view = page.event(["run-picker", "compare-ids", "compare-side"], "change")
        page.ask(view, ["", "", "Held-out pairs", "", "", "", "", "newest", "", ""])
        cold = 1000 * (time.perf_counter() - began)
        lines = ["| request | first | median | processor |", "| --- " * 4 + "|"]
        lines.append(f"| the list, first time after the page was started | {cold:,.0f} ms | | |")
        for title, first, median, worked in measure(page, ids):
            lines.append(f"| {title} | {first:,.0f} ms | {median:,.0f} ms | {worked:,.0f} ms |")
        print("\n".join(lines))
    text = (
        f"# A thousand runs on the page\n\nA home of {RUNS:,} runs; one has {LINES:,} lines of "
        "metrics, the others 200. The real page answers over HTTP; “first” is the first of "
        f"{REQUESTS} requests, which may still read what no request before it needed.\n\n"
        + "\n".join(lines)
        + f"\n\nMeasured on {psutil.cpu_count(logical=False)} CPU cores at a load of {load:.0f}, "
        f"Python {platform.python_version()}: `python -m benchmarks.history`.\n"
    )
    RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
