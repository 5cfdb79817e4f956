"""How long the page takes to open, beside a Gradio page with nothing on it.

Run: python -m benchmarks.startup [--rounds 7]

In turn, in the same run: `python app.py` in a home of its own, and a Gradio app of one empty
block; each from the start of its process to the first whole answers to `GET /` and `GET /config`,
which the browser needs to draw the page. Once before, unmeasured, so that the disk is warm.
"""

from __future__ import annotations

import argparse
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "startup.md"
TARGET = 1.5
PATIENCE_SECONDS = 120
EMPTY = """
import sys
import gradio as gr
with gr.Blocks(analytics_enabled=False) as page:
    pass
page.launch(server_name="127.0.0.1", server_port=int(sys.argv[1]), quiet=True, share=False)
"""


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def opening(command: list[str], home: str) -> float:
    """Start a page, wait for its answers and end it; return the seconds."""
    port = free_port()
    environment = os.environ | {
        "ORPO_QLORA_HOME": home,
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_OFFLINE": "1",
    }
    began = time.perf_counter()
    process = subprocess.Popen(
        [*command, str(port)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for path in ("/", "/config"):
            wait_for(f"http://127.0.0.1:{port}{path}", began)
        return time.perf_counter() - began
    finally:
        process.kill()
        process.wait()


def wait_for(address: str, began: float) -> None:
    """Ask until there is a whole answer."""
    while True:
        try:
            with urllib.request.urlopen(address, timeout=10) as answer:
                answer.read()
                return
        except OSError:
            if time.perf_counter() - began > PATIENCE_SECONDS:
                raise
            time.sleep(0.01)


def to_markdown(ours: list[float], empty: list[float]) -> str:
    """Return the measurement as a page."""
    ratios = [mine / bare for mine, bare in zip(ours, empty, strict=True)]
    rows = [("`python app.py`", ours), ("an empty Gradio app", empty)]
    table = "\n".join(
        f"| {name} | {statistics.median(times):.2f} s | {min(times):.2f} to {max(times):.2f} s |"
        for name, times in rows
    )
    return (
        "# Opening the page\n\n"
        "From the start of the process to the first whole answers (`/` and `/config`), in turn.\n\n"
        f"| page | median of {len(ours)} | range |\n| --- | --- | --- |\n{table}\n\n"
        f"Median ratio of a round: {statistics.median(ratios):.2f} (target: at most {TARGET}). "
        f"{os.cpu_count()} CPU cores, {platform.machine()}, Python {platform.python_version()}, "
        f"gradio {version('gradio')}.\n\n"
        "Rerun: `python -m benchmarks.startup`.\n"
    )


def main() -> None:
    """Measure in turn and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    commands = ([sys.executable, "app.py", "--port"], [sys.executable, "-c", EMPTY])
    times: tuple[list[float], list[float]] = ([], [])
    with tempfile.TemporaryDirectory() as home:
        for number in range(rounds + 1):
            for command, taken in zip(commands, times, strict=True):
                seconds = opening(command, home)
                if number:
                    taken.append(seconds)
    report = to_markdown(*times)
    RESULT.write_text(report, encoding="utf-8")
    print(report)


if __name__ == "__main__":
    main()
