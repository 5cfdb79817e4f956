"""`estimate`, also called `plan`: what a training will take. Floor 6; no torch."""

from __future__ import annotations

import json

import typer

from orpo_qlora.cli.console import job_progress, out, plain
from orpo_qlora.cli.files import DEFAULTS, DataOptions, RecipeFiles, with_data_options
from orpo_qlora.cli.options import (
    Again,
    AsJson,
    ModelName,
    Preset,
    Settings,
    config_of,
)
from orpo_qlora.data.files.combine import check_files
from orpo_qlora.jobs import estimation
from orpo_qlora.jobs.estimation import Estimate


@with_data_options
def estimate(
    files: RecipeFiles = None,
    preset: Preset = None,
    model: ModelName = None,
    settings: Settings = None,
    options: DataOptions = DEFAULTS,
    again: Again = False,
    as_json: AsJson = False,
) -> None:
    """Estimate memory, disk and time of a training from one real step; exit 1 without a fit."""
    config = config_of(preset, settings, {"model": model})
    data = options.recipe_file_set(files, preset, config, quiet=as_json)
    report = check_files(data)
    request = estimation.request_for(data, report, config)
    with job_progress(quiet=as_json) as on_progress:
        found = estimation.wait_for(request, on_progress, again=again)
    _print(found, as_json=as_json)
    raise typer.Exit(0 if found.fits else 1)


def _print(found: Estimate, *, as_json: bool) -> None:
    if as_json:
        summary = {"fits": found.fits, "sentence": found.sentence()}
        out.print_json(json.dumps(found.model_dump(mode="json") | summary))
        return
    for sentence in found.sentences():
        out.print(plain(sentence), soft_wrap=True)
