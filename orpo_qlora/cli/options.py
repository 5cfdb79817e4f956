"""Options that several commands share. Floor 6; no torch."""

from __future__ import annotations

from typing import Annotated

import typer
import yaml

from orpo_qlora.config import TrainConfig, build_config
from orpo_qlora.errors import ConfigError
from orpo_qlora.presets import read_preset
from orpo_qlora.shipped_presets import preset_names

RunName = Annotated[str, typer.Argument(help="Run id or name, or “last”.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Detach = Annotated[bool, typer.Option("--detach", help="Return at once.")]
Again = Annotated[bool, typer.Option("--again", help="Measure again even if the result is known.")]
Preset = Annotated[str | None, typer.Option(help=f"{', '.join(preset_names())}, or a YAML file.")]
ModelName = Annotated[str | None, typer.Option("--model", help="Catalogue name, hub id or folder.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting.")
]


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
