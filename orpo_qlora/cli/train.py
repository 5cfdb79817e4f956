"""`train`, `resume`, `stop` and `queue`: runs from their start to their end. Floor 6; no torch."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from orpo_qlora.cli.console import err, out, plain
from orpo_qlora.cli.files import DEFAULTS, DataOptions, RecipeFiles, with_data_options
from orpo_qlora.cli.options import (
    AsJson,
    Detach,
    ModelName,
    Preset,
    RunName,
    Settings,
    config_of,
)
from orpo_qlora.data.doctor.examine import too_many_passes
from orpo_qlora.data.files.combine import load_files
from orpo_qlora.errors import InputError
from orpo_qlora.models.templates import tokenizer_files
from orpo_qlora.runs import store
from orpo_qlora.runs.curves import insight
from orpo_qlora.runs.curves.metrics import ACCURACY
from orpo_qlora.runs.lineage import parent_title
from orpo_qlora.runs.process import launch
from orpo_qlora.runs.process import queue as run_queue
from orpo_qlora.runs.process.data_for_method import balance_sentence
from orpo_qlora.runs.process.follow import follow
from orpo_qlora.runs.process.start import with_start
from orpo_qlora.runs.store import Run, RunPaths

EXIT_STOPPED = 10


def add_train_verbs(app: typer.Typer) -> None:
    """Add these commands to the program's."""
    for verb in (train, stop, resume, queue):
        app.command()(verb)


@with_data_options
def train(
    files: RecipeFiles = None,
    preset: Preset = None,
    model: ModelName = None,
    settings: Settings = None,
    name: Annotated[str | None, typer.Option(help="A label for the runs list.")] = None,
    start_from: Annotated[
        str | None,
        typer.Option("--from", metavar="RUN", help="Train this run's adapter, or a folder's, on."),
    ] = None,
    options: DataOptions = DEFAULTS,
    detach: Detach = False,
    no_start: Annotated[
        bool, typer.Option("--no-start", help="Only create the run: another launcher starts it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train an adapter; Ctrl-C stops with a checkpoint. Queued while another run trains."""
    if detach and no_start:
        raise InputError(
            "--detach starts the run, and --no-start does not.", hint="Leave one of them out."
        )
    config = config_of(preset, settings, {"model": model, "name": name, "start_from": start_from})
    config = with_start(config)  # before a long file is read
    data = options.recipe_file_set(files, preset, config, quiet=as_json)
    dataset = load_files(data)
    remark = too_many_passes(len(dataset.pairs), config)
    if remark:
        err.print(plain(remark.sentence()), soft_wrap=True)
    used = tokenizer_files.known_template(config.model, config.revision, config.chat_template)
    for sentence in used.sentences(config.model) if used else []:
        err.print(plain(sentence), soft_wrap=True)
    balance = balance_sentence(config, dataset.report)
    if balance:
        err.print(plain(balance), soft_wrap=True)
    if no_start:
        paths = launch.create_stopped(config, dataset)
        if as_json:
            out.print_json(json.dumps(store.to_json(store.read_run(paths))))
        else:
            out.print(paths.folder, soft_wrap=True)
        return
    paths = launch.start_run(config, dataset)
    if not as_json:
        out.print(f"Run {paths.id}")
    _watch(paths, detach=detach, as_json=as_json)


def _watch(paths: RunPaths, *, detach: bool, as_json: bool) -> None:
    """Follow a run until it ends and exit with its code; with `detach`, return at once."""
    run = store.read_run(paths) if detach else follow(paths, err, quiet=as_json)
    if as_json:
        out.print_json(json.dumps(store.to_json(run)))
    if not detach:
        _finish(run, quiet=as_json)


def _finish(run: Run, *, quiet: bool) -> None:
    """Print how the run ended and exit with its code."""
    state = run.state
    if state.error:
        err.print(f"[red]{state.status}:[/] {plain(state.error.message)}", soft_wrap=True)
        err.print(plain(state.error.hint), soft_wrap=True)
        raise typer.Exit(1)
    if state.status == "interrupted":
        err.print(f"[red]interrupted:[/] the worker died; see {run.paths.log}")
        raise typer.Exit(1)
    if not quiet:
        print_result(run)
    if state.status == "stopped":
        if not quiet:
            out.print(f"Continue later: orpo-qlora resume {run.id}")
        raise typer.Exit(EXIT_STOPPED)


def print_result(run: Run) -> None:
    """Print accuracy before and after, the insights and where the adapter is."""
    metrics = store.metrics_of(run.paths)
    accuracies = metrics.series(ACCURACY, held_out=True)
    if accuracies:
        first, last = metrics.before(ACCURACY), accuracies[-1][1]
        parent = parent_title(run.paths.start)
        before = "" if first is None else f"{first:.0%} before{parent and f' ({parent})'}, "
        text = f"Held-out preference accuracy: {before}{last:.0%} after."
        out.print(plain(text), soft_wrap=True)
    for one in insight.judge(metrics, run.config):
        text = " ".join(filter(None, (one.sentence, one.advice)))
        out.print(f"{plain(text)} ({one.rule})", soft_wrap=True)
    if run.has_adapter:
        out.print(f"Adapter: {run.paths.adapter}", soft_wrap=True)
        out.print(f"Chat with it: orpo-qlora chat {run.id}")


def stop(
    run: RunName,
    now: Annotated[
        bool, typer.Option("--now", help="Kill it once the grace period is over.")
    ] = False,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds it gets to write a checkpoint, with --now.")
    ] = launch.GRACE_SECONDS,
) -> None:
    """Ask a run to end after its current step with a checkpoint; a waiting run leaves the queue."""
    found = store.find_run(run)
    if not found.is_active:
        raise InputError(
            f"Run “{found.title}” is {found.state.status}, so there is nothing to stop."
        )
    if now:
        ended = launch.end_run(found.paths, grace)
        out.print(f"Run {ended.id} is {ended.state.status} after step {ended.state.step}.")
        return
    launch.stop_run(found.paths)
    is_waiting = found.state.status == "queued"
    effect = "has left the queue" if is_waiting else "stops after its current step"
    out.print(f"Run {found.id} {effect}.")


def _processes(text: str) -> int:
    """Return a number of processes, 0 for `auto`."""
    if text == "auto" or text.isdecimal():
        return 0 if text == "auto" else int(text)
    raise typer.BadParameter(f"“{text}” is neither auto nor a whole number.")


def resume(
    run: RunName,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Drop its checkpoints and start over.")
    ] = False,
    processes: Annotated[
        int | None,
        typer.Option(
            metavar="N|auto",
            parser=_processes,
            help="Processes that share it from now on; auto is all visible GPUs.",
        ),
    ] = None,
    detach: Detach = False,
    as_json: AsJson = False,
) -> None:
    """Resume a stopped, failed or interrupted run from its newest checkpoint."""
    found = store.find_run(run)
    step = launch.resume_run(found.paths, from_start=from_start, processes=processes)
    if not as_json:
        out.print(f"Run {found.id} resumes after step {step}.")
    _watch(found.paths, detach=detach, as_json=as_json)


def queue(
    run: Annotated[str | None, typer.Argument(help="Move this run; without, list them.")] = None,
    place: Annotated[int, typer.Option(min=1, help="Its new place, 1 is next.")] = 1,
    as_json: AsJson = False,
) -> None:
    """List the queued runs, or move one of them."""
    launch.start_next()  # its supervisor may be gone
    if run is not None:
        launch.move_run(store.find_run(run).paths, to=place)
    waiting = run_queue.queued_runs()
    if as_json:
        out.print_json(json.dumps([store.to_json(queued) for queued in waiting]))
        return
    for number, queued in enumerate(waiting, start=1):
        out.print(f"{number}. {queued.id} {plain(queued.name)}".rstrip())
