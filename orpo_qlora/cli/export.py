"""`export`: the adapter as a zip, a report, or a merged model. Floor 6; no torch."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from orpo_qlora.cli.console import out
from orpo_qlora.cli.options import AsJson, RunName
from orpo_qlora.export import bundle, html_report
from orpo_qlora.program import run_foreground
from orpo_qlora.runs import store

MERGE = "orpo_qlora.export.merge"


class Dtype(StrEnum):
    """Number types of a merged model."""

    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


def export(
    run: RunName,
    target: Annotated[
        Path | None,
        typer.Option("--out", help="The zip to write; without, it goes to the home's exports/."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Write a report of one page to this .html or .md file instead."),
    ] = None,
    merged: Annotated[
        Path | None,
        typer.Option(help="Merge base and adapter into this new folder of safetensors instead."),
    ] = None,
    dtype: Annotated[
        Dtype, typer.Option(help="Number type of the merged weights.")
    ] = Dtype.bfloat16,
    as_json: AsJson = False,
) -> None:
    """Pack a run's adapter with model card, settings and licence note into one zip."""
    if report is not None:
        html_report.write_report(store.find_run(run), report.expanduser())
        return
    if merged is not None:
        arguments = [store.find_run(run).id, str(merged), dtype.value]
        raise typer.Exit(run_foreground(MERGE, arguments))
    made = bundle.export_adapter(store.find_run(run), target)
    if as_json:
        about = {"file": str(made.path), "sha256": made.sha256, "bytes": made.size_bytes}
        out.print_json(json.dumps(about | {"files": made.files}))
        return
    out.print(f"{made.path}\nSHA-256 {made.sha256}", soft_wrap=True, markup=False)
