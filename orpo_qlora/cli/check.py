"""`check`: read a preference file and report on it. Floor 6; no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from orpo_qlora.cli.console import err, job_progress, out, plain
from orpo_qlora.cli.files import DEFAULTS, DataFiles, DataOptions, with_data_options, with_mapping
from orpo_qlora.cli.options import (
    AsJson,
)
from orpo_qlora.config import TrainConfig, build_config
from orpo_qlora.data.export import write_clean, write_report
from orpo_qlora.data.files.combine import check_files, load_files
from orpo_qlora.data.files.sources import FileSet
from orpo_qlora.data.summary import DataSummary
from orpo_qlora.errors import InputError
from orpo_qlora.jobs.token_counts import request_of
from orpo_qlora.jobs.token_report import LengthReport, count_tokens

TokenModel = Annotated[
    str, typer.Option("--model", help="Count tokens too, with this base model's tokenizer.")
]
TemplateName = Annotated[
    str, typer.Option(help="With --model: auto, a template's name or a .jinja file.")
]
MaxLength = Annotated[int, typer.Option(help="Longest sequence in tokens, with --model.")]
OverLengthWay = Annotated[
    str, typer.Option(help="With --model, over-long pairs: drop, cut_prompt or cut_answers.")
]


@with_data_options
def check(
    files: DataFiles,
    as_json: AsJson = False,
    prompt_column: Annotated[str, typer.Option(help="Column that holds the prompt.")] = "",
    chosen_column: Annotated[str, typer.Option(help="Column of the preferred answer.")] = "",
    rejected_column: Annotated[str, typer.Option(help="Column of the other answer.")] = "",
    system_column: Annotated[str, typer.Option(help="Column of the system message.")] = "",
    header: Annotated[bool, typer.Option(help="Whether the first line names columns.")] = True,
    options: DataOptions = DEFAULTS,
    export: Annotated[
        Path | None, typer.Option(help="Write the usable pairs to this .csv or .jsonl file.")
    ] = None,
    report_file: Annotated[
        Path | None, typer.Option("--report", help="Write the report to this .json or .md file.")
    ] = None,
    model: TokenModel = "",
    chat_template: TemplateName = "auto",
    max_length: MaxLength = 1024,
    over_length: OverLengthWay = "drop",
) -> None:
    """Read a preference file and report what it holds; exit 2 when no row is usable."""
    wanted = {
        **{"model": model, "chat_template": chat_template},
        **{"max_length": max_length, "over_length": over_length},
    }
    config = build_config({k: v for k, v in wanted.items() if v != ""}, source="the options")
    named = {
        "prompt": prompt_column, "chosen": chosen_column, "rejected": rejected_column,
        "system": system_column,
    }  # fmt: skip
    data = options.file_set(files, quiet=as_json, has_header=header)
    _refuse_overwriting(data, export)
    with Progress(console=err, transient=True, disable=as_json or not err.is_terminal) as bar:
        task = bar.add_task("reading", total=1.0)

        def on_progress(done: float) -> None:
            bar.update(task, completed=done)

        data = with_mapping(data, options.columns, named)
        if export:
            dataset = load_files(data, on_progress)
            write_clean(export, dataset.pairs)
            report = dataset.report
        else:
            report = check_files(data, on_progress)
    if report_file:
        write_report(report_file, report)
    tokens = _count_tokens(data, report, config, quiet=as_json) if model else None
    _print_check(report, tokens, as_json=as_json)


def _refuse_overwriting(data: FileSet, export: Path | None) -> None:
    for file in data.files:
        if export and export.resolve() == Path(file.path).resolve():
            raise InputError(
                f"{file.name} would be overwritten.", hint="Export under another name."
            )


def _count_tokens(
    data: FileSet, report: DataSummary, config: TrainConfig, *, quiet: bool
) -> LengthReport:
    """Count tokens in a background job, with a progress bar."""
    request = request_of(data, report, config)
    with job_progress(quiet=quiet) as on_progress:
        return count_tokens(request, config, on_progress)


def _print_check(report: DataSummary, tokens: LengthReport | None, *, as_json: bool) -> None:
    """Print the data summary of a file and its token report."""
    if as_json:
        counted = {"tokens": tokens.model_dump(mode="json")} if tokens else {}
        out.print_json(json.dumps(report.model_dump(mode="json") | counted))
        return
    lengths = tokens.sentences() if tokens else []
    for sentence in [*report.sentences(), *report.remarks(), *lengths]:
        out.print(plain(sentence), soft_wrap=True)
