"""Presets: the shipped ones, and one's own in the home's `presets/` folder. Ground floor.

Both are plain YAML with the names people type, so one's own can be handed on and taken in.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from orpo_qlora import config, storage
from orpo_qlora.config import TrainConfig
from orpo_qlora.errors import ConfigError

NAME = re.compile(r"\w[\w .+-]{0,59}", re.ASCII)
FILE_BYTES = 100_000
"""Largest preset taken in; the longest prompts a person would write are far shorter."""

DEEPEST = 10
"""No setting is a list of lists."""


def own_names() -> list[str]:
    """Return the names of one's own presets, in alphabetical order."""
    return sorted(path.stem for path in _folder().glob("*.yaml") if _is_name(path.stem))


def all_names() -> list[str]:
    """Return the shipped presets, smallest hardware first, then one's own."""
    return [*config.preset_names(), *own_names()]


def check_known(name: str) -> None:
    """Make sure that a preset is named, not a file; a browser may name any file of the machine.

    Raises:
        ConfigError: there is no preset of that name.
    """
    if name not in all_names():
        raise ConfigError(
            f"There is no preset “{name}”.",
            hint=f"Presets: {', '.join(all_names())}.",
        )


def read_preset(name_or_file: str) -> dict[str, object]:
    """Return the settings of a shipped preset, one's own, or a YAML file.

    Raises:
        ConfigError: no such preset, or it holds no settings.
    """
    if name_or_file in config.preset_names() or name_or_file not in own_names():
        return config.read_preset(name_or_file)
    return read_file(_path(name_or_file), name_or_file)


def read_file(path: Path, source: str = "") -> dict[str, object]:
    """Return the settings of a YAML file that came from anywhere.

    Raises:
        ConfigError: it is no YAML of settings, too large, or refers to parts of itself.
    """
    source = source or path.name
    try:
        if path.stat().st_size > FILE_BYTES:
            raise _too_large(source)
        return read_text(path.read_text(encoding="utf-8-sig"), source)
    except (OSError, UnicodeDecodeError) as exc:
        raise _not_yaml(source, exc) from exc


def read_text(text: str, source: str) -> dict[str, object]:
    """Return the settings in a text that came from anywhere.

    Raises:
        ConfigError: as for `read_file`.
    """
    if len(text) > FILE_BYTES:
        raise _too_large(source)
    try:
        _refuse_costly(text, source)
        content = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as exc:
        raise _not_yaml(source, exc) from exc
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"{source} holds no settings.", where=source, hint=_EXPECTED)
    return {str(key): value for key, value in content.items()}


def _refuse_costly(text: str, source: str) -> None:
    """Refuse what is short to write and long to read."""
    depth = 0
    for event in yaml.parse(text):
        # A few aliases of aliases are more text, once printed, than a machine can hold.
        if isinstance(event, yaml.AliasEvent):
            raise ConfigError(f"{source} refers to parts of itself.", hint="Write each value out.")
        # Brackets in brackets would keep the reader busy for minutes.
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ConfigError(f"{source} holds lists in lists in lists.", hint=_EXPECTED)


_EXPECTED = "Choose a YAML file with lines such as “lambda: 0.2”, as “Export” writes it."


def _too_large(source: str) -> ConfigError:
    return ConfigError(
        f"{source} is too large for a preset.", hint="A preset is a short list of settings."
    )


def _not_yaml(source: str, exc: Exception) -> ConfigError:
    return ConfigError(f"{source} is not YAML: {_reason(exc)}.", where=source, hint=_EXPECTED)


def _reason(exc: Exception) -> str:
    if isinstance(exc, yaml.MarkedYAMLError) and exc.problem_mark is not None:
        return f"{exc.problem} on line {exc.problem_mark.line + 1}"
    return "it is no text" if isinstance(exc, UnicodeDecodeError) else type(exc).__name__


def save_preset(name: str, settings: TrainConfig) -> str:
    """Keep settings under a name and return it; an older preset of that name is replaced.

    Raises:
        ConfigError: the name cannot be used.
        DiskFull: the older preset is kept.
    """
    name = name.strip()
    if not _is_name(name):
        raise ConfigError(
            f"“{name}” cannot name a preset." if name else "The preset has no name yet.",
            hint="Use up to 60 letters, digits, spaces, dots and dashes.",
        )
    if name in config.preset_names():
        raise ConfigError(f"“{name}” is a preset of the program.", hint="Choose another name.")
    _folder().mkdir(mode=0o700, exist_ok=True)
    storage.write_whole(_path(name), preset_text(settings))
    return name


def preset_text(settings: TrainConfig) -> str:
    """Return settings as a preset's YAML; the run's name is no part of it."""
    values = settings.model_dump(mode="json", by_alias=True, exclude={"name"})
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def delete_preset(name: str) -> None:
    """Forget one of one's own presets.

    Raises:
        ConfigError: it is not one's own.
    """
    if name not in own_names():
        raise ConfigError(
            f"“{name}” is not one of your own presets.", hint="Only those can be deleted."
        )
    _path(name).unlink(missing_ok=True)


def _is_name(name: str) -> bool:
    return NAME.fullmatch(name) is not None and not name.endswith((" ", "."))


def _folder() -> Path:
    return storage.home() / "presets"


def _path(name: str) -> Path:
    return _folder() / f"{name}.yaml"
