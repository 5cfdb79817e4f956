"""Compare one training step of the engine with TRL's on the user's own pairs. Floor 6; no torch."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from orpo_qlora import program
from orpo_qlora.cli.console import out, plain
from orpo_qlora.cli.files import DEFAULTS, DataOptions, with_data_options, with_mapping
from orpo_qlora.cli.options import AsJson, ModelName, Preset, Settings, config_of
from orpo_qlora.data.files.combine import load_files
from orpo_qlora.data.pairs import write_pairs
from orpo_qlora.models.templates import chat_templates
from orpo_qlora.runs.process.data_for_method import check_data

PROGRAM = "orpo_qlora.orpo.verify.program"
EXAMPLE = "short_answers"
EXIT_DIFFERENT = 1


def add_verify(app: typer.Typer) -> None:
    """Add this command to the program's."""
    app.command()(verify)


@with_data_options
def verify(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="Preference file, or the name of an example.")
    ] = EXAMPLE,
    preset: Preset = None,
    model: ModelName = None,
    method: Annotated[
        str | None, typer.Option("--method", help="Method to compare; orpo by default.")
    ] = None,
    settings: Settings = None,
    options: DataOptions = DEFAULTS,
    as_json: AsJson = False,
) -> None:
    """Compare one step with TRL's trainer of a method on the first pairs; exit 1 if they differ.

    Takes the first pairs_per_step pairs. Both compute loss, log-probs and LoRA gradients in
    float32 on the same 4-bit weights, the same adapter and the same token ids.
    """
    config = config_of(preset, settings, {"model": model, "method": method})
    config = chat_templates.recorded(config)
    data = options.file_set([file], quiet=as_json, configs=[config])
    dataset = load_files(with_mapping(data, options.columns))
    check_data(config, dataset.report, dataset.pairs[: config.pairs_per_step])
    with tempfile.TemporaryDirectory(prefix="orpo-qlora-verify-") as name:
        folder = Path(name)
        (folder / "config.json").write_text(config.model_dump_json(by_alias=True), encoding="utf-8")
        write_pairs(folder / "pairs.jsonl", dataset.pairs[: config.pairs_per_step])
        # Importing TRL's ORPO warns that it may move; idle threads leave the cores to others.
        os.environ |= program.PROGRAM_ENVIRONMENT | {"TRL_EXPERIMENTAL_SILENCE": "1"}
        code = program.run_foreground(PROGRAM, [name])
        report_file = folder / "report.json"
        if not report_file.is_file():
            raise typer.Exit(code)
        report = json.loads(report_file.read_text(encoding="utf-8"))
    if as_json:
        out.print_json(json.dumps(report))
    else:
        _print_report(report)
    raise typer.Exit(0 if report["equal"] else EXIT_DIFFERENT)


def _print_report(report: Mapping[str, Any]) -> None:
    out.print(
        plain(
            f"One step of {report['pairs']} pairs on {report['model']}: {report['method']}. "
            f"Engine: layout {report['layout']}, {report['forwards']} forwards. "
            f"TRL {report['versions']['trl']}: one padded batch."
        ),
        soft_wrap=True,
    )
    table = Table("", "TRL", "engine", "difference", "tolerance", "")
    for one in report["differences"]:
        table.add_row(
            one["name"],
            f"{one['trl']:.7g}",
            f"{one['engine']:.7g}",
            f"{one['difference']:.1e}",
            f"{one['tolerance']:.0e}",
            "ok" if one["within"] else "differs",
        )
    out.print(table)
    out.print(
        f"Relative differences; of {report['gradients']} LoRA gradients the largest, in L2 norms.",
        soft_wrap=True,
    )
    for note in report["notes"]:
        out.print(plain(note), soft_wrap=True)
    out.print(
        "The engine computes TRL's step."
        if report["equal"]
        else "The engine differs from TRL by more than rounding."
    )
