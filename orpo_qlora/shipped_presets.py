"""The presets and recipes that ship with the program: their files and what these hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from orpo_qlora.errors import ConfigError

CHECKOUT = Path(__file__).parent.parent / "presets"
PACKAGED = Path(__file__).parent / "presets"
EXTRAS = ("about", "data")
"""Keys of a preset that are no settings; see `presets.Recipe`."""


def preset_folder() -> Path:
    """Return the folder of the shipped presets, in a checkout or in an installed package."""
    return PACKAGED if PACKAGED.is_dir() else CHECKOUT


def _shipped_presets() -> dict[str, Path]:
    folder = preset_folder()
    files = [*sorted(folder.glob("*.yaml")), *sorted(folder.glob("recipes/*.yaml"))]
    return {path.stem: path for path in files}


def preset_names() -> list[str]:
    """Return the names of the shipped presets: smallest hardware first, then the recipes."""
    return list(_shipped_presets())


def read_preset(name_or_file: str) -> dict[str, object]:
    """Return the settings of a shipped preset or of a YAML file.

    Raises:
        ConfigError: no such preset, or the file is not a YAML mapping.
    """
    return without_extras(read_preset_file(name_or_file))


def without_extras(content: Mapping[str, object]) -> dict[str, object]:
    """Return the settings of a preset without what a recipe says about itself and its data."""
    return {key: value for key, value in content.items() if key not in EXTRAS}


def read_preset_file(name_or_file: str) -> dict[str, object]:
    """Return everything that a shipped preset or a YAML file holds.

    Raises:
        ConfigError: no such preset, or the file is not a YAML mapping.
    """
    path = _shipped_presets().get(name_or_file) or Path(name_or_file).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"There is no preset or file “{name_or_file}”.",
            hint=f"Presets: {', '.join(preset_names())}.",
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path} is not YAML: {exc}.", where=str(path)) from exc
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no settings.", where=str(path))
    return {str(key): value for key, value in content.items()}
