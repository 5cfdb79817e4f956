"""`check`: read a preference file and report on it. Floor 6; no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from orpo_qlora.cli.console import err, job_progress, out, plain
from orpo_qlora.cli.files import (
    Caps,
    DataFiles,
    Encodings,
    SampleSeed,
    Shares,
    file_set,
    with_mapping,
)
from orpo_qlora.cli.options import (
    AsJson,
    CommonPrefix,
    Fixes,
    HubConfig,
    HubOptions,
    HubRevision,
    HubSplit,
    LabelledRows,
    Map,
    MaxBytes,
    MaxRows,
    Ranking,
    locator,
)
from orpo_qlora.config import TrainConfig, build_config
from orpo_qlora.data.export import write_clean, write_report
from orpo_qlora.data.files.choices import ReadChoices
from orpo_qlora.data.files.combine import check_files, load_files
from orpo_qlora.data.files.hub import MOST_BYTES
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


def check(
    files: DataFiles,
    as_json: AsJson = False,
    shares: Shares = None,
    caps: Caps = None,
    sample_seed: SampleSeed = 0,
    encodings: Encodings = None,
    prompt_column: Annotated[str, typer.Option(help="Column that holds the prompt.")] = "",
    chosen_column: Annotated[str, typer.Option(help="Column of the preferred answer.")] = "",
    rejected_column: Annotated[str, typer.Option(help="Column of the other answer.")] = "",
    system_column: Annotated[str, typer.Option(help="Column of the system message.")] = "",
    header: Annotated[bool, typer.Option(help="Whether the first line names columns.")] = True,
    fixes: Fixes = None,
    pairs_from_ranking: Ranking = None,
    labelled: LabelledRows = None,
    columns: Map = None,
    prompt_from_common_prefix: CommonPrefix = False,
    config_name: HubConfig = "",
    split: HubSplit = "",
    data_revision: HubRevision = "",
    max_rows: MaxRows = 0,
    max_bytes: MaxBytes = MOST_BYTES,
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
    choices = ReadChoices(
        has_header=header,
        fixes=tuple(fixes or ()),
        pairs_from_ranking=pairs_from_ranking,
        labelled=labelled,
        prompt_from_common_prefix=prompt_from_common_prefix,
    )
    hub = HubOptions(config_name, split, data_revision, max_rows, max_bytes)
    data = file_set(
        files,
        choices,
        shares=shares,
        caps=caps,
        encodings=encodings,
        sample_seed=sample_seed,
        locate=locator(files, hub, quiet=as_json),
    )
    _refuse_overwriting(data, export)
    with Progress(console=err, transient=True, disable=as_json or not err.is_terminal) as bar:
        task = bar.add_task("reading", total=1.0)

        def on_progress(done: float) -> None:
            bar.update(task, completed=done)

        data = with_mapping(data, columns, named)
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
