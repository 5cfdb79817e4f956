"""Options that several commands share. Floor 6; no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, get_args

import typer
import yaml

from orpo_qlora.cli.console import err, job_progress, plain
from orpo_qlora.config import TrainConfig, build_config, preset_names
from orpo_qlora.data.columns import ShapeName
from orpo_qlora.data.examples import example_names, example_path
from orpo_qlora.data.files import hub
from orpo_qlora.data.files.choices import Labelled, PairsFromRanking
from orpo_qlora.data.mapping import KEYS as MAPPING_KEYS
from orpo_qlora.data.readers.arrow import is_saved, split_folder
from orpo_qlora.errors import ConfigError, InputError, ResourceError
from orpo_qlora.jobs.hub import job
from orpo_qlora.methods import method_of
from orpo_qlora.models.machine import this_machine
from orpo_qlora.models.needs import needs_of
from orpo_qlora.presets import Recipe, read_preset, read_recipe, recipe_names

RunName = Annotated[str, typer.Argument(help="Run id or name, or “last”.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Detach = Annotated[bool, typer.Option("--detach", help="Return at once.")]
Again = Annotated[bool, typer.Option("--again", help="Measure again even if the result is known.")]
Preset = Annotated[str | None, typer.Option(help=f"{', '.join(preset_names())}, or a YAML file.")]
ModelName = Annotated[str | None, typer.Option("--model", help="Catalogue name, hub id or folder.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting.")
]
Fixes = Annotated[
    list[str] | None,
    typer.Option("--fix", metavar="ID", help="Fix a finding, by its id; repeatable."),
]
Ranking = Annotated[
    PairsFromRanking | None,
    typer.Option(
        "--pairs-from-ranking",
        metavar="WAY",
        help="Pairs of a ranked row: best_worst, best_rest or all.",
    ),
]
LabelledRows = Annotated[
    Labelled | None,
    typer.Option(
        "--labelled",
        metavar="WAY",
        help="Responses with a good or bad label: pairs, of prompts with both labels; or single, "
        "each on its own, which only the method kto trains on.",
        show_default="single for kto and where there are no pairs, else pairs",
    ),
]
Map = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="KEY=VALUE",
        help=f"How the file is read; repeatable. Keys: {', '.join(MAPPING_KEYS)}. "
        f"Shapes: {', '.join(get_args(ShapeName))}.",
    ),
]
CommonPrefix = Annotated[
    bool,
    typer.Option(
        "--prompt-from-common-prefix",
        help="Confirm that what chosen and rejected both begin with is the prompt.",
    ),
]
RecipeFiles = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="FILE...",
        help=f"As for check; may be left out with a preset that names its data: "
        f"{', '.join(recipe_names())}.",
        show_default=False,
    ),
]
HubConfig = Annotated[str, typer.Option("--config-name", help="Config (subset) of a Hub data set.")]
HubSplit = Annotated[
    str, typer.Option("--split", help="Split of a Hub data set or of a saved folder.")
]
HubRevision = Annotated[
    str, typer.Option("--data-revision", help="Branch, tag or commit of a Hub data set.")
]
MaxRows = Annotated[
    int, typer.Option(min=0, help="Take the first rows of a Hub data set only; 0 is all.")
]
MaxBytes = Annotated[
    int, typer.Option(min=1, help="Refuse a Hub data set that takes more bytes than this.")
]


@dataclass(frozen=True)
class HubOptions:
    """The options that only a Hub data set takes; a saved folder takes the split too."""

    config: str = ""
    split: str = ""
    revision: str = ""
    max_rows: int = 0
    max_bytes: int = hub.MOST_BYTES


def data_path(file: str, options: HubOptions | None = None, *, quiet: bool = False) -> Path:
    """Return the path of a data file, of an example given by name, or of a fetched Hub data set.

    Raises:
        DataError: the Hub has no such data set, or the options do not suit the file.
    """
    options = options or HubOptions()
    if file in example_names():
        return example_path(file)
    path = Path(file).expanduser()
    if not path.exists():
        if hub.looks_like_id(file):
            return _fetched(file, options, quiet=quiet)
        return path
    if path.is_dir() and is_saved(path):
        path, options = split_folder(path, options.split), replace(options, split="")
    if options != HubOptions():
        raise InputError(
            f"{file} is a file on this machine, which has no config, split or revision.",
            hint="Leave out the options for Hub data sets.",
        )
    return path


def locator(files: Sequence[str], options: HubOptions, *, quiet: bool) -> Callable[[str], Path]:
    """Return how to find the path of each FILE argument; see `data_path`.

    The options apply to those files that take them, if any does.
    """
    taking = [file for file in files if _takes_options(file)]

    def locate(file: str) -> Path:
        return data_path(file, options if file in taking or not taking else None, quiet=quiet)

    return locate


def _takes_options(file: str) -> bool:
    path = Path(file).expanduser()
    if file in example_names() or path.is_file():
        return False
    return is_saved(path) if path.exists() else hub.looks_like_id(file)


def recipe_data(
    preset: str | None, config: TrainConfig, options: HubOptions
) -> tuple[str, HubOptions]:
    """Return the Hub data set that a preset names, with its options; print what its model needs.

    Options that are given replace the preset's.

    Raises:
        InputError: the preset names no data, or there is no preset.
        ResourceError: its model cannot be trained on this machine.
    """
    recipe = read_recipe(preset) if preset else None
    if recipe is None or recipe.data is None:
        raise InputError(
            f"The preset {preset} names no data." if preset else "There is no FILE.",
            hint=f"Name a file, an example or a Hub data set, or use a preset that names its data: "
            f"{', '.join(recipe_names())}.",
        )
    if config.model == read_preset(preset or "").get("model"):
        _say_needs(config.model, recipe)
    data = recipe.data
    wanted = replace(
        options,
        config=options.config or data.config,
        split=options.split or data.split,
        revision=options.revision or data.revision,
    )
    return data.id, wanted


def _say_needs(model: str, recipe: Recipe) -> None:
    """Print what a model needs before anything is downloaded; refuse where it cannot work."""
    needs = needs_of(model, recipe.about.parameters_billion, this_machine())
    if needs is None:
        return
    err.print(plain(needs.sentence), soft_wrap=True)
    if needs.warning:
        raise ResourceError(
            needs.warning,
            hint="Nothing was downloaded. Use a smaller model with --model or another machine; to "
            f"train here all the same, name the data: {recipe.data.id if recipe.data else 'FILE'}.",
        )


def _fetched(file: str, options: HubOptions, *, quiet: bool) -> Path:
    """Fetch a Hub data set with a progress bar; return the stored file."""
    request = hub.request_of(
        file, options.config, options.split, options.revision, options.max_rows
    ).model_copy(update={"max_bytes": options.max_bytes})
    with job_progress(quiet=quiet) as on_progress:
        fetched = job.fetch(request, on_progress)
    if fetched.note:
        err.print(plain(fetched.note), soft_wrap=True)
    return fetched.path


def labelled_for(configs: Sequence[TrainConfig], given: Labelled | None) -> Labelled | None:
    """Return how labelled responses are read for runs with these settings."""
    if given is None and all(method_of(config).takes_single for config in configs):
        return "single"
    return given


def parse_assignments(assignments: list[str]) -> dict[str, object]:
    """Turn `key=value` texts into settings; a value in brackets is a list.

    Raises:
        ConfigError: a text has no `=`.
    """
    settings: dict[str, object] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"“{text}” is not key=value.", hint="Write --set lambda=0.2.")
        settings[key.strip()] = yaml.safe_load(value) if value.startswith("[") else value
    return settings


def config_of(
    preset: str | None, settings: list[str] | None, named: dict[str, str | None]
) -> TrainConfig:
    """Return the settings of a preset, `--set` and named options, the last one wins."""
    values = read_preset(preset) if preset else {}
    values |= parse_assignments(settings or [])
    values |= {key: value for key, value in named.items() if value}
    return build_config(values)
