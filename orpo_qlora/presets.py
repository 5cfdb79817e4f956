"""Presets: the built-in ones, and the user's in the home's `presets/` folder.

Both are plain YAML with public setting names, so they can be shared as files.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orpo_qlora import shipped_presets, storage
from orpo_qlora.config import TrainConfig
from orpo_qlora.errors import ConfigError

NAME = re.compile(r"\w[\w .+-]{0,59}", re.ASCII)
FILE_BYTES = 100_000
"""Largest file read; presets with long sample prompts are far shorter."""

MAX_DEPTH = 10
"""Maximum nesting of lists; no setting is a list of lists."""


def own_names() -> list[str]:
    """Return the names of the user's presets, in alphabetical order."""
    return sorted(path.stem for path in _folder().glob("*.yaml") if _is_name(path.stem))


def all_names() -> list[str]:
    """Return the built-in presets, smallest hardware first, then the user's."""
    return [*shipped_presets.preset_names(), *own_names()]


def check_known(name: str) -> None:
    """Check that a name from the browser is a preset and not the path of a file.

    Raises:
        ConfigError: there is no preset of that name.
    """
    if name not in all_names():
        raise ConfigError(
            f"There is no preset “{name}”.",
            hint=f"Presets: {', '.join(all_names())}.",
        )


def read_preset(name_or_file: str) -> dict[str, object]:
    """Return the settings of a built-in preset, a user's preset, or a YAML file.

    Raises:
        ConfigError: no such preset, or it holds no settings.
    """
    if name_or_file in shipped_presets.preset_names() or name_or_file not in own_names():
        return shipped_presets.read_preset(name_or_file)
    return read_file(_path(name_or_file), name_or_file)


class Recipe(BaseModel):
    """What a preset says besides its settings: where it is from and which data it is for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    class About(BaseModel):
        """Where the settings are from."""

        model_config = ConfigDict(frozen=True, extra="forbid")

        title: str = ""
        source: str = ""
        """Address of the paper, script or model card."""
        parameters_billion: float = Field(default=0.0, ge=0)
        """Of the base model; 0 if unknown."""

    class Data(BaseModel):
        """A data set of the Hub; empty texts are its defaults."""

        model_config = ConfigDict(frozen=True, extra="forbid")

        id: str = Field(min_length=1)
        config: str = ""
        split: str = ""
        revision: str = ""

    about: About = About()
    data: Data | None = None


def read_recipe(name_or_file: str) -> Recipe:
    """Return what a preset says besides its settings; the user's own say nothing.

    Raises:
        ConfigError: no such preset, or what it says is wrong.
    """
    if name_or_file in own_names():
        return Recipe()
    content = shipped_presets.read_preset_file(name_or_file)
    try:
        return Recipe.model_validate(
            {key: content[key] for key in shipped_presets.EXTRAS if content.get(key) is not None}
        )
    except ValidationError as exc:
        names = ", ".join(".".join(map(str, error["loc"])) for error in exc.errors())
        raise ConfigError(
            f"The preset {name_or_file} has a wrong entry: {names}.",
            where=name_or_file,
            hint="“data” takes id, config, split and revision.",
        ) from exc


def recipe_names() -> list[str]:
    """Return the shipped presets that name their data."""
    return [name for name in shipped_presets.preset_names() if read_recipe(name).data]


def read_file(path: Path, source: str = "") -> dict[str, object]:
    """Return the settings of an untrusted YAML file.

    Raises:
        ConfigError: it is not a YAML mapping, is too large, or uses aliases.
    """
    source = source or path.name
    try:
        if path.stat().st_size > FILE_BYTES:
            raise _too_large(source)
        return read_text(path.read_text(encoding="utf-8-sig"), source)
    except (OSError, UnicodeDecodeError) as exc:
        raise _not_yaml(source, exc) from exc


def read_text(text: str, source: str) -> dict[str, object]:
    """Return the settings of an untrusted YAML text.

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
    return shipped_presets.without_extras({str(key): value for key, value in content.items()})


def _refuse_costly(text: str, source: str) -> None:
    """Refuse short texts that would take very long or very much memory to parse."""
    depth = 0
    for event in yaml.parse(text):
        # Nested aliases expand exponentially once printed.
        if isinstance(event, yaml.AliasEvent):
            raise ConfigError(f"{source} refers to parts of itself.", hint="Write each value out.")
        # Deeply nested brackets keep the YAML parser busy for minutes.
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
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
    return "it is not text" if isinstance(exc, UnicodeDecodeError) else type(exc).__name__


def save_preset(name: str, settings: TrainConfig) -> str:
    """Save settings under a name and return it; an older preset of that name is replaced.

    Raises:
        ConfigError: the name cannot be used.
        DiskFull: the older preset is kept.
    """
    name = name.strip()
    if not _is_name(name):
        raise ConfigError(
            f"“{name}” is not a valid preset name." if name else "The preset has no name.",
            hint="Use up to 60 letters, digits, spaces, dots and dashes.",
        )
    if name in shipped_presets.preset_names():
        raise ConfigError(f"“{name}” is a built-in preset.", hint="Choose another name.")
    _folder().mkdir(mode=0o700, exist_ok=True)
    storage.write_whole(_path(name), preset_text(settings))
    return name


def preset_text(settings: TrainConfig) -> str:
    """Return settings as YAML, without the run name."""
    values = settings.model_dump(mode="json", by_alias=True, exclude={"name"})
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def delete_preset(name: str) -> None:
    """Delete a preset of the user.

    Raises:
        ConfigError: it is not a preset of the user.
    """
    if name not in own_names():
        raise ConfigError(
            f"“{name}” is not one of your own presets.", hint="Only your own can be deleted."
        )
    _path(name).unlink(missing_ok=True)


def _is_name(name: str) -> bool:
    return NAME.fullmatch(name) is not None and not name.endswith((" ", "."))


def _folder() -> Path:
    return storage.home() / "presets"


def _path(name: str) -> Path:
    return _folder() / f"{name}.yaml"
