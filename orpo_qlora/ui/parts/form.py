"""The form: every setting of TrainConfig as an input, with its label, help, bounds and choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import gradio as gr
from annotated_types import Ge, Le, MaxLen
from pydantic.fields import FieldInfo

from orpo_qlora.config import TrainConfig, build_config, choices_of, setting_fields
from orpo_qlora.models.catalogue import CATALOGUE
from orpo_qlora.models.templates.chat_templates import label_of
from orpo_qlora.presets import read_preset
from orpo_qlora.runs.trackers import is_offered
from orpo_qlora.setting import CHAT_TEMPLATES, Group, is_template_text, methods_of

HIDDEN = "hidden"
"""In the page, so that its value counts, but not shown."""
RADIO_CHOICES = 3
"""Up to this many choices are radio buttons; more are a dropdown."""


@dataclass(frozen=True)
class Form:
    """The components of all settings, by setting name, in TrainConfig's order."""

    components: dict[str, Any]

    @property
    def inputs(self) -> list[Any]:
        """The components in the order `config_from` takes their values."""
        return list(self.components.values())


def setting_names() -> list[str]:
    """Return every setting in the order `config_from` takes their values."""
    return list(setting_fields())


def basic_settings() -> list[str]:
    """Return the settings that are always visible."""
    return [name for name, info in setting_fields().items() if _extra(info)["basic"]]


def folded_settings() -> dict[str, list[str]]:
    """Return the remaining settings by group."""
    groups: dict[str, list[str]] = {group: [] for group in get_args(Group)}
    for name, info in setting_fields().items():
        if not _extra(info)["basic"]:
            groups[str(_extra(info)["group"])].append(name)
    return {group: names for group, names in groups.items() if names}


def method_settings() -> list[str]:
    """Return the settings that only some methods read."""
    return [name for name, info in setting_fields().items() if methods_of(info)]


def is_read_by(name: str, method: object) -> bool:
    """Whether a method reads a setting."""
    methods = methods_of(setting_fields()[name])
    return not methods or method in methods


def build_component(name: str, value: object = None, *, method: object = None) -> Any:  # noqa: ANN401 - gradio's inputs
    """Return the input for one setting.

    Args:
        name: of the setting.
        value: to show, None for the default.
        method: hides a setting that this method does not read; None shows all.
    """
    info = setting_fields()[name]
    common = {
        "visible": True if method is None or is_read_by(name, method) else HIDDEN,
        "label": info.title,
        "info": info.description,
        "value": shown_value(name, info.default if value is None else value),
        "elem_id": element_id(name),
        "interactive": True,
    }
    if name == "model":
        models = [(entry.label, entry.name) for entry in CATALOGUE]
        return gr.Dropdown(models, allow_custom_value=True, filterable=True, **common)
    if name == "chat_template":
        return gr.Dropdown(_templates(value), allow_custom_value=True, **common)
    if name == "start_from":  # the Train tab offers the runs
        new = [("A new adapter", "")]
        return gr.Dropdown(new, allow_custom_value=True, filterable=True, **common)
    if choices_of(info):
        choices = [choice for choice in choices_of(info) if is_offered(name, choice)]
        kind = gr.Radio if len(choices) <= RADIO_CHOICES else gr.Dropdown
        return kind(choices, **common)
    if info.annotation is bool:
        return gr.Checkbox(**common)
    if info.annotation in (float, int):
        return _number(info, common)
    if _is_optional(info):
        # Not a number input: Gradio makes 0 of an empty one.
        return gr.Textbox(placeholder="auto", max_length=20, **common)
    lines = 3 if info.annotation is not str else 1
    # A length bound on a list counts its items, not its characters.
    length = _bound(info, MaxLen, "max_length") if lines == 1 else None
    return gr.Textbox(lines=lines, max_length=length, **common)


def _templates(value: object) -> list[tuple[str, str]]:
    """Return the templates by name, and a template's text under a short label."""
    names = [(name, name) for name in CHAT_TEMPLATES]
    is_text = isinstance(value, str) and is_template_text(value)
    return [*names, (label_of(str(value)), str(value))] if is_text else names


def update_of(name: str, value: object) -> Any:  # noqa: ANN401 - a value or a component
    """Return what makes a setting's input show a value."""
    if name == "chat_template" and is_template_text(str(value)):
        return gr.Dropdown(_templates(value), value=value)
    return shown_value(name, value)


def _number(info: FieldInfo, common: Mapping[str, object]) -> Any:  # noqa: ANN401
    low, high = _bound(info, Ge, "ge"), _bound(info, Le, "le")
    if info.annotation is float and low is not None and high is not None:
        return gr.Slider(low, high, step=0.05 if high - low > 1 else 0.01, **common)
    # No bounds of Gradio's: a wrong number is explained beside the button instead of clipped.
    step = 1 if info.annotation is int else (info.default / 10 or 0.01)
    return gr.Number(step=step, **common)


def element_id(name: str) -> str:
    """Return the stable id of a setting's input."""
    return f"setting-{name}"


def shown_value(name: str, value: object) -> object:
    """Return a setting's value as its input shows it; nothing for None."""
    if value is None:
        return ""
    if isinstance(value, tuple | list):
        return "\n".join(str(item) for item in value)
    return value


def config_from(values: Sequence[object]) -> TrainConfig:
    """Return the settings from the values of all inputs.

    Raises:
        ConfigError: lists every wrong setting at once.
    """
    fields = setting_fields()
    settings = {
        name: _typed(fields[name], value) for name, value in zip(fields, values, strict=True)
    }
    return build_config(settings, source="the form")


def config_from_some(values: Mapping[str, object]) -> TrainConfig:
    """Return the settings from some inputs, by setting name; the others have their default.

    Raises:
        ConfigError: lists every wrong setting at once.
    """
    fields = setting_fields()
    settings = {name: _typed(fields[name], value) for name, value in values.items()}
    return build_config(settings, source="the form")


def changed_settings(values: Sequence[object], origin: TrainConfig) -> list[str]:
    """Return the settings whose inputs differ from `origin`, the run name aside.

    An input with an invalid value counts as changed.
    """
    fields, before = setting_fields(), named_values(origin)
    return [
        name
        for name, value in zip(fields, values, strict=True)
        if name != "name" and not _is_same(_typed(fields[name], value), before[name])
    ]


def _is_same(value: object, before: object) -> bool:
    # A browser sends 2 for 2.0, and a list for a tuple.
    return (
        list(value) == list(before)
        if isinstance(before, tuple) and isinstance(value, list | tuple)
        else value == before
    )


def _typed(info: FieldInfo, value: object) -> object:
    if isinstance(value, str):
        if _is_optional(info):
            return _number_of(value.strip())
        if info.annotation is not str and not choices_of(info):
            return [line.strip() for line in value.splitlines() if line.strip()]
        return value if is_template_text(value) else value.strip()
    return value


def _is_optional(info: FieldInfo) -> bool:
    """Whether a setting is a number that may be empty."""
    return info.annotation == float | None


def _number_of(text: str) -> float | str | None:
    """Return the number in a text, None for no text, the text where it is no number."""
    try:
        return float(text) if text else None
    except ValueError:
        return text


def config_of_preset(preset: str) -> TrainConfig:
    """Return a preset's settings, complete.

    Raises:
        ConfigError: the preset does not exist or holds a wrong setting.
    """
    return build_config(read_preset(preset), source=f"preset {preset}")


def updates_of(config: TrainConfig) -> list[object]:
    """Return what makes the form's inputs show these settings."""
    return [update_of(name, value) for name, value in named_values(config).items()]


def named_values(config: TrainConfig) -> dict[str, object]:
    """Return the settings by public name (`lambda`, not `lambda_`), in the form's order."""
    return {
        info.alias or name: getattr(config, name) for name, info in TrainConfig.model_fields.items()
    }


def _extra(info: FieldInfo) -> Mapping[str, object]:
    return info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}


def _bound(info: FieldInfo, kind: type, name: str) -> Any:  # noqa: ANN401 - a number
    return next((getattr(item, name) for item in info.metadata if isinstance(item, kind)), None)
