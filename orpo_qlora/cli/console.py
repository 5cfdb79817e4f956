"""What commands share: arguments, and how errors, accounts and results are printed. Floor 4."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from orpo_qlora.config import TrainConfig
from orpo_qlora.data.summary import DataSummary
from orpo_qlora.errors import BrokenRows, NeedsColumns, NeedsEncoding, OrpoQloraError
from orpo_qlora.jobs import estimation
from orpo_qlora.jobs.estimation import Estimate
from orpo_qlora.jobs.job import JobState
from orpo_qlora.jobs.token_counts import request_of
from orpo_qlora.jobs.token_report import LengthReport, count_tokens
from orpo_qlora.runs import insight, store
from orpo_qlora.runs.store import Run

RunName = Annotated[str, typer.Argument(help="Run id or name, or “last”.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def print_error(error: OrpoQloraError) -> None:
    """Print what went wrong and the ways out."""
    err.print(f"[red]error:[/] {plain(error.message)}", soft_wrap=True)
    if error.hint:
        err.print(plain(error.hint), soft_wrap=True)
    for option in _ways_out(error):
        err.print(f"  {plain(option)}", soft_wrap=True)


def _ways_out(error: OrpoQloraError) -> list[str]:
    """Return the options of `check` that lead on from an error about data."""
    if isinstance(error, NeedsEncoding):
        return [f"--encoding {one.encoding}: {one.preview}" for one in error.candidates]
    if isinstance(error, NeedsColumns) and error.columns:
        return ["check --prompt-column, --chosen-column, --rejected-column: which is which."]
    if isinstance(error, BrokenRows):
        return [f"--fix {error.fix} leaves them out."]
    return []


def plain(text: str) -> str:
    """Return a text whose brackets are no markup."""
    return text.replace("[", r"\[")


def print_check(report: DataSummary, tokens: LengthReport | None, *, as_json: bool) -> None:
    """Print the account of a file."""
    if as_json:
        counted = {"tokens": tokens.model_dump(mode="json")} if tokens else {}
        out.print_json(json.dumps(report.model_dump(mode="json") | counted))
        return
    told = tokens.sentences() if tokens else []
    for sentence in [*report.sentences(), *report.remarks(), *told]:
        out.print(plain(sentence), soft_wrap=True)


def count_with_progress(
    path: Path, report: DataSummary, config: TrainConfig, *, quiet: bool
) -> LengthReport:
    """Count in a probe, with a progress bar; the answer is kept for the page and the next time."""
    request = request_of(path.resolve(), report, config)
    with job_progress(quiet=quiet) as tell:
        return count_tokens(request, config, tell)


@contextmanager
def job_progress(*, quiet: bool) -> Iterator[Callable[[JobState], None]]:
    """Give a function that shows how far a job is."""
    with Progress(console=err, transient=True, disable=quiet or not err.is_terminal) as bar:
        task = bar.add_task("starting", total=None)

        def tell(state: JobState) -> None:
            total = state.total or None
            bar.update(task, description=state.phase, completed=state.done, total=total)

        yield tell


def estimate_with_progress(
    path: Path, report: DataSummary, config: TrainConfig, *, again: bool, quiet: bool
) -> Estimate:
    """Plan a training in a process of its own; the answer is kept for the page and the next time.

    Raises:
        Busy: a run is at work.
        OrpoQloraError: the plan failed, with its message.
    """
    request = estimation.plan_request(path.resolve(), report, config)
    with job_progress(quiet=quiet) as tell:
        return estimation.wait_for(request, tell, again=again)


def print_estimate(found: Estimate, *, as_json: bool) -> None:
    """Print what a training takes."""
    if as_json:
        verdict = {"fits": found.fits, "sentence": found.sentence()}
        out.print_json(json.dumps(found.model_dump(mode="json") | verdict))
        return
    for sentence in found.sentences():
        out.print(plain(sentence), soft_wrap=True)


def print_result(run: Run) -> None:
    """Print what a run has brought."""
    metrics = store.metrics_of(run.paths)
    accuracies = metrics.series("rewards/accuracies", held_out=True)
    if accuracies:
        first, last = accuracies[0][1], accuracies[-1][1]
        out.print(f"Held-out preference accuracy: {first:.0%} before, {last:.0%} after.")
    for one in insight.judge(metrics, run.config.lambda_):
        said = " ".join(filter(None, (one.sentence, one.advice)))
        out.print(f"{plain(said)} ({one.rule})", soft_wrap=True)
    if run.has_adapter:
        out.print(f"Adapter: {run.paths.adapter}", soft_wrap=True)
        out.print(f"Talk to it: orpo-qlora chat {run.id}")
