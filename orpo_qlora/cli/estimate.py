"""`estimate`, also called `plan`: what a training will take. Floor 6; no torch."""

from __future__ import annotations

import json

import typer

from orpo_qlora.cli.console import job_progress, out, plain
from orpo_qlora.cli.options import (
    Again,
    AsJson,
    Encoding,
    Fixes,
    HubConfig,
    HubOptions,
    HubRevision,
    HubSplit,
    MaxBytes,
    MaxRows,
    ModelName,
    Preset,
    Ranking,
    RecipeFile,
    Settings,
    config_of,
    data_path,
    recipe_path,
)
from orpo_qlora.data.choices import ReadChoices
from orpo_qlora.data.hub import MOST_BYTES
from orpo_qlora.data.pairs import check_file
from orpo_qlora.jobs import estimation
from orpo_qlora.jobs.estimation import Estimate


def estimate(
    file: RecipeFile = "",
    preset: Preset = None,
    model: ModelName = None,
    settings: Settings = None,
    encoding: Encoding = "",
    fixes: Fixes = None,
    pairs_from_ranking: Ranking = "best_worst",
    config_name: HubConfig = "",
    split: HubSplit = "",
    data_revision: HubRevision = "",
    max_rows: MaxRows = 0,
    max_bytes: MaxBytes = MOST_BYTES,
    again: Again = False,
    as_json: AsJson = False,
) -> None:
    """Estimate memory, disk and time of a training from one real step; exit 1 without a fit."""
    config = config_of(preset, settings, {"model": model})
    choices = ReadChoices(
        encoding=encoding, fixes=tuple(fixes or ()), pairs_from_ranking=pairs_from_ranking
    )
    hub = HubOptions(config_name, split, data_revision, max_rows, max_bytes)
    if file:
        path = data_path(file, hub, quiet=as_json)
    else:
        path = recipe_path(preset, config, hub, quiet=as_json)
    report = check_file(path, choices=choices)
    request = estimation.request_for(path.resolve(), report, config)
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
