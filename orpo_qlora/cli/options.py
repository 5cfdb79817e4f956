"""Options that several commands share. Floor 6; no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from orpo_qlora.config import TrainConfig, build_config, parse_assignments, preset_names
from orpo_qlora.data.choices import PairsFromRanking
from orpo_qlora.data.columns import ShapeName
from orpo_qlora.data.examples import example_names, example_path
from orpo_qlora.data.mapping import KEYS as MAPPING_KEYS
from orpo_qlora.presets import read_preset

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


def data_path(file: str) -> Path:
    """Return the path of a data file, or of an example given by name."""
    return example_path(file) if file in example_names() else Path(file).expanduser()


def config_of(
    preset: str | None, settings: list[str] | None, named: dict[str, str | None]
) -> TrainConfig:
    """Return the settings of a preset, `--set` and named options, the last one wins."""
    values = read_preset(preset) if preset else {}
    values |= parse_assignments(settings or [])
    values |= {key: value for key, value in named.items() if value}
    return build_config(values)
