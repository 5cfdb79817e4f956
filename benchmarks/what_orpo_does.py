"""What ORPO does, measured: λ = 0 (plain SFT) against λ = 0.1, 0.5 and 1 on the same pairs.

Run: python -m benchmarks.what_orpo_does   (about 20 minutes on two CPU cores)

Trains the demo model four times through the tool itself, photographs the tool's own plots and
writes the numbers into docs/what-orpo-does.md. Runs that the home folder already has under the same
name and settings are taken as they are.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from orpo_qlora.config import TrainConfig, build_config
from orpo_qlora.data.examples import example_path
from orpo_qlora.data.pairs import load_preferences
from orpo_qlora.runs import store
from orpo_qlora.runs.process import launch
from orpo_qlora.runs.store import Run
from orpo_qlora.shipped_presets import read_preset

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "what-orpo-does.md"
IMAGES = ROOT / "docs" / "images"
LAMBDAS = (0.0, 0.1, 0.5, 1.0)
HOURS = 3600.0
NUMBERS = (
    ("nll_loss", "NLL, nats"),
    ("logps/chosen", "log-prob chosen"),
    ("logps/rejected", "log-prob rejected"),
    ("log_odds_ratio", "log odds ratio"),
    ("rewards/accuracies", "accuracy"),
)


@dataclass(frozen=True)
class Change:
    """A held-out metric before training and after it."""

    before: float
    after: float

    def __str__(self) -> str:
        return f"{self.before:.2f} → {self.after:.2f}"


def study_config(lambda_: float) -> TrainConfig:
    """Return the demo preset for one epoch at a λ; nothing else differs between the runs."""
    settings = read_preset("demo-cpu") | {
        "lambda": lambda_,
        "name": f"study λ = {lambda_:g}",
        "epochs": 1,
        "eval_every": 7,
        "sample_prompts": ["Why do cats purr?"],
    }
    return build_config(settings)


def trained(lambda_: float) -> Run:
    """Return the finished run at a λ, trained now unless the home has it."""
    config = study_config(lambda_)
    for run in store.list_runs():
        if run.config == config and run.state.status == "finished":
            return run
    paths = launch.start_run(config, load_preferences(example_path("short_answers")))
    print(f"λ = {lambda_:g}: run {paths.id}", flush=True)
    run = launch.wait_for(paths, 2 * HOURS)
    if run.state.status != "finished":
        sys.exit(f"run {run.id} {run.state.status}: {run.state.error}")
    return run


def change_of(run: Run, metric: str) -> Change:
    """Return a held-out metric's first and last value."""
    points = store.metrics_of(run.paths).series(metric, held_out=True)
    return Change(points[0][1], points[-1][1])


def table(runs: list[Run]) -> str:
    """Return the held-out numbers before and after, one row a run."""
    lines = [
        "| λ | " + " | ".join(title for _, title in NUMBERS) + " |",
        "| --- |" + " --- |" * len(NUMBERS),
    ]
    for run in runs:
        cells = " | ".join(str(change_of(run, metric)) for metric, _ in NUMBERS)
        lines.append(f"| {run.config.lambda_:g} | {cells} |")
    return "\n".join(lines)


def photograph(runs: list[Run]) -> None:
    """Save the tool's own plots of every run."""
    sys.path.insert(0, str(ROOT / "tests"))
    from pages import chromium, served_page

    IMAGES.mkdir(exist_ok=True)
    with served_page() as address, chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        for run in runs:
            page.goto(f"{address}/?run={run.id}")
            for name in ("loss", "logps"):
                figure = page.locator(f"#plot-{name} figure")
                figure.wait_for()
                figure.screenshot(path=IMAGES / f"lambda-{run.config.lambda_:g}-{name}.png")


def main() -> None:
    """Train, photograph, write."""
    runs = [trained(lambda_) for lambda_ in LAMBDAS]
    photograph(runs)
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition("<!-- numbers -->")
    after = rest.partition("<!-- /numbers -->")[2]
    versions = store.about_run(runs[0].paths)["versions"]
    used = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers", "peft"))
    place = f"Measured on {psutil.cpu_count(logical=False)} CPU cores with {used}."
    text = f"{before}<!-- numbers -->\n\n{table(runs)}\n\n{place}\n\n<!-- /numbers -->{after}"
    PAGE.write_text(text, encoding="utf-8")
    print(table(runs))


if __name__ == "__main__":
    main()
