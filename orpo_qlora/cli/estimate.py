"""`estimate`, also called `plan`: what a training will take. Floor 6; no torch."""

from __future__ import annotations

import json

import typer

from orpo_qlora.cli.console import job_progress, out, plain
from orpo_qlora.cli.files import (
    Caps,
    Encodings,
    SampleSeed,
    Shares,
    file_set,
    with_mapping,
)
from orpo_qlora.cli.options import (
    Again,
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
    ModelName,
    Preset,
    Ranking,
    RecipeFiles,
    Settings,
    config_of,
    labelled_for,
    locator,
    recipe_data,
)
from orpo_qlora.data.files.choices import ReadChoices
from orpo_qlora.data.files.combine import check_files
from orpo_qlora.data.files.hub import MOST_BYTES
from orpo_qlora.jobs import estimation
from orpo_qlora.jobs.estimation import Estimate


def estimate(
    files: RecipeFiles = None,
    preset: Preset = None,
    model: ModelName = None,
    settings: Settings = None,
    shares: Shares = None,
    caps: Caps = None,
    sample_seed: SampleSeed = 0,
    encodings: Encodings = None,
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
    again: Again = False,
    as_json: AsJson = False,
) -> None:
    """Estimate memory, disk and time of a training from one real step; exit 1 without a fit."""
    config = config_of(preset, settings, {"model": model})
    choices = ReadChoices(
        fixes=tuple(fixes or ()),
        pairs_from_ranking=pairs_from_ranking,
        labelled=labelled_for([config], labelled),
        prompt_from_common_prefix=prompt_from_common_prefix,
    )
    hub = HubOptions(config_name, split, data_revision, max_rows, max_bytes)
    if not files:
        named, hub = recipe_data(preset, config, hub)
        files = [named]
    data = file_set(
        files,
        choices,
        shares=shares,
        caps=caps,
        encodings=encodings,
        sample_seed=sample_seed,
        locate=locator(files, hub, quiet=as_json),
    )
    data = with_mapping(data, columns)
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
