"""Options that several commands share. Floor 6; no torch."""

from __future__ import annotations

from typing import Annotated

import typer

from orpo_qlora.config import TrainConfig, build_config, parse_assignments, preset_names
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


def config_of(
    preset: str | None, settings: list[str] | None, named: dict[str, str | None]
) -> TrainConfig:
    """Return the settings of a preset, `--set` and named options, the last one wins."""
    values = read_preset(preset) if preset else {}
    values |= parse_assignments(settings or [])
    values |= {key: value for key, value in named.items() if value}
    return build_config(values)
