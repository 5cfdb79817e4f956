"""Every export of a demo run, read back: size, largest difference from the run's model, time.

Run: python -m benchmarks.exports --out benchmarks/results/exports.md   (about 10 minutes)

Exports the newest finished run of the home folder, which should be one of the demo model
(`orpo-qlora train short_answers --preset demo-cpu`), through the command line, one format after the
other. Exits with 1 where one is refused. Where llama.cpp's converter is not in the home folder yet,
it is downloaded as the first export does.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from orpo_qlora.export.reports import markdown

FORMATS = {
    "GGUF, f16": ("--gguf", "f16.gguf"),
    "GGUF, bf16": ("--gguf", "bf16.gguf", "--quantize", "bf16"),
    "GGUF, q8_0": ("--gguf", "q8_0.gguf", "--quantize", "q8_0"),
    "GGUF adapter": ("--gguf-adapter", "adapter.gguf"),
    "Ollama, f16": ("--ollama", "ollama"),
    "vLLM": ("--vllm", "vllm"),
    "merged, onto the 4-bit weights": ("--merged", "trained"),
    "merged, onto the original weights": ("--merged", "original", "--onto", "original"),
}
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Made:
    """What became of one export."""

    title: str
    seconds: float
    megabytes: float
    lines: tuple[str, ...]
    """What was checked; or, where it failed, the error."""
    failed: bool


def main() -> None:
    """Export one format after the other, print or write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--run", default="last")
    parser.add_argument("--out", type=Path, help="Markdown page to write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = [export(options.run, title, Path(folder)) for title in FORMATS]
    page = to_page(made)
    print(page)
    if options.out:
        options.out.write_text(page, encoding="utf-8")
    sys.exit(any(one.failed for one in made))


def export(run: str, title: str, folder: Path) -> Made:
    """Make one export in a folder by the command of the same name."""
    option, name, *rest = FORMATS[title]
    target = folder / name
    command = [sys.executable, "-m", "orpo_qlora.cli.main", "export", run, option, str(target)]
    started = time.monotonic()
    done = subprocess.run([*command, *rest, "--json"], capture_output=True, text=True, check=False)
    seconds = time.monotonic() - started
    print(f"{title}: {seconds:.0f} s, exit status {done.returncode}", flush=True)
    if done.returncode:
        return Made(title, seconds, 0.0, tuple(done.stderr.split("\n")), failed=True)
    files = [target] if target.is_file() else list(target.rglob("*"))
    size = sum(file.stat().st_size for file in files if file.is_file())
    about = json.loads(done.stdout)
    checks = about.get("checks") or about.get("notes") or []
    return Made(title, seconds, size / MEGABYTE, tuple(checks), failed=False)


def to_page(made: list[Made]) -> str:
    """Return the table and, for each format, what was checked."""
    rows = (
        [one.title, "refused" if one.failed else f"{one.megabytes:,.0f} MB", f"{one.seconds:.0f} s"]
        for one in made
    )
    lines = ["# Exports of a demo run, read back", ""]
    lines += markdown.table(["format", "size", "time"], rows)
    for one in made:
        text = " ".join(line.strip() for line in one.lines if line.strip())
        lines += ["", f"**{one.title}.** {markdown.plain(text) or 'Nothing is compared.'}"]
    return "\n".join([*lines, "", "Rerun: `python -m benchmarks.exports`.", ""])


if __name__ == "__main__":
    main()
