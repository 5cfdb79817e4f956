"""A preference file of a million rows and a gigabyte, read here, by datasets and by pandas.

`python -m benchmarks.read_large_file` writes benchmarks/results/read_large_file.md. Each reader
runs in its own process; measured are the time from opening the file to the last pair and the peak
memory of the process.
"""

from __future__ import annotations

import csv
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import psutil

ROWS = int(os.environ.get("BENCH_ROWS", "1000000"))
NA_EVERY = 1000
"""Interval of rows whose rejected response is the text “NA”."""
RESULTS = Path(__file__).parent / "results" / "read_large_file.md"
TEXT = """the of and to in a is that for it as was with be by on not he his but at are this have
from or had an they which one you were all her she there would their we him been has when who will
no more if out so said what up its about than into them can only other time new some could"""
WORDS = TEXT.split()


def write_file(path: Path) -> None:
    """Write ordinary English-looking preferences, a quarter of them with quotes and line breaks."""
    chance = random.Random(1)
    pool = [" ".join(chance.choices(WORDS, k=90)).capitalize() + "." for _ in range(5000)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "chosen", "rejected"])
        for row in range(1, ROWS + 1):
            chosen = f"{chance.choice(pool)} And so on, {row} times."
            if row % 4 == 0:
                chosen = f'He said "{row}".\n\n{chosen}'
            rejected = "NA" if row % NA_EVERY == 0 else chance.choice(pool)
            writer.writerow([f"Question {row}: {chance.choice(pool)[:100]}?", chosen, rejected])


def rows(path: Path) -> Iterator[str]:
    """Read every row as exact text; nothing is checked."""
    from orpo_qlora.data.readers.table import open_table

    yield "imported"
    count = lost = 0
    for row in open_table(path).rows():
        count += 1
        lost += not row.cells[2]
    yield json.dumps({"rows": count, "lost": lost})


def check(path: Path) -> Iterator[str]:
    """Read and check every row, keep only the data summary."""
    from orpo_qlora.data.pairs import check_file

    yield "imported"
    report = check_file(path)
    yield json.dumps({"rows": report.rows_read, "lost": report.rows_read - report.pairs})


def load(path: Path) -> Iterator[str]:
    """Read and check every row, keep all pairs."""
    from orpo_qlora.data.pairs import load_preferences

    yield "imported"
    dataset = load_preferences(path)
    lost = sum(not pair.rejected for pair in dataset.pairs[NA_EVERY - 1 :: NA_EVERY])
    yield json.dumps({"rows": len(dataset.pairs), "lost": lost})


def with_datasets(path: Path) -> Iterator[str]:
    """Convert the file to Arrow, as training scripts do."""
    import datasets

    datasets.disable_progress_bars()
    yield "imported"
    with tempfile.TemporaryDirectory(dir=path.parent) as cache:
        data = datasets.load_dataset("csv", data_files=str(path), cache_dir=cache)["train"]
        lost = sum(cell is None for cell in data[NA_EVERY - 1 :: NA_EVERY]["rejected"])
        yield json.dumps({"rows": len(data), "lost": lost})


def with_pandas(path: Path) -> Iterator[str]:
    """Read the file into a frame."""
    import pandas as pd

    yield "imported"
    frame = pd.read_csv(path)
    yield json.dumps({"rows": len(frame), "lost": int(frame["rejected"].isna().sum())})


READERS: dict[str, tuple[str, Callable[[Path], Iterator[str]]]] = {
    "rows": ("orpo-qlora, rows only, no checks", rows),
    "check": ("orpo-qlora, check: data checks, pairs not kept", check),
    "load": ("orpo-qlora, load: data checks, pairs kept", load),
    "datasets": ('`datasets.load_dataset("csv")`, no checks', with_datasets),
    "pandas": ("`pandas.read_csv`, no checks", with_pandas),
}


def measure(name: str, path: Path) -> None:
    """Run one reader in this process and print its time and peak memory."""
    steps = READERS[name][1](path)
    next(steps)
    start = time.perf_counter()
    found = json.loads(next(steps))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({**found, "seconds": seconds, "peak_bytes": peak}))


def main() -> None:
    """Write the file, run every reader in a process of its own, write the table."""
    if len(sys.argv) == 3:
        measure(sys.argv[1], Path(sys.argv[2]))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.csv"
        write_file(path)
        size = path.stat().st_size
        lines = ["| reader | seconds | peak memory | rows | texts “NA” lost |", "| --- " * 5 + "|"]
        for name, (title, _) in READERS.items():
            call = [sys.executable, "-m", "benchmarks.read_large_file", name, str(path)]
            environment = {**os.environ, "ORPO_QLORA_HOME": folder, "HF_HUB_OFFLINE": "1"}
            done = subprocess.run(call, check=True, capture_output=True, text=True, env=environment)
            found = json.loads(done.stdout.splitlines()[-1])
            lines.append(
                f"| {title} | {found['seconds']:.1f} | {found['peak_bytes'] / 1e6:,.0f} MB "
                f"| {found['rows']:,} | {found['lost']:,} |"
            )
            print(lines[-1], flush=True)
    versions = ", ".join(f"{name} {version(name)}" for name in ("datasets", "pandas", "pyarrow"))
    text = (
        f"# Reading a large file\n\nA CSV of {ROWS:,} preferences, {size / 1e9:.2f} GB; in "
        f"{ROWS // NA_EVERY:,} rows the rejected response is the text “NA”. Each reader in a fresh "
        f"process, with its default settings.\n\n" + "\n".join(lines) + "\n\n"
        f"Measured on {psutil.cpu_count(logical=False)} CPU cores with Python "
        f"{platform.python_version()}, {versions}: `python -m benchmarks.read_large_file`.\n"
    )
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
