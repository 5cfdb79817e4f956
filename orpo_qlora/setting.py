"""How a setting is declared: default, group, label, help, bounds, and which methods read it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic.fields import FieldInfo

MethodName = Literal["orpo", "sft", "dpo", "ipo", "simpo", "cpo", "kto"]
Group = Literal["Model", "Objective", "Optimisation", "Data", "Memory", "Logging"]
CHAT_TEMPLATES = ("auto", "chatml", "zephyr", "llama2", "mistral", "alpaca")
"""Values of `chat_template` by name; else it is the path of a .jinja file, or a template's text."""
TEMPLATE_CHARACTERS = 65_536


def setting(
    default: Any,  # noqa: ANN401 - the type is the field's own annotation
    *,
    group: Group,
    label: str,
    help: str,
    basic: bool = False,
    methods: tuple[MethodName, ...] = (),
    **bounds: Any,  # noqa: ANN401 - passed through to pydantic
) -> Any:  # noqa: ANN401
    """Return a field; `methods` are those that read the setting, empty for all."""
    extra: dict[str, Any] = {"group": group, "basic": basic, "methods": methods}
    return Field(default, title=label, description=help, json_schema_extra=extra, **bounds)


def switch_name(value: object) -> object:
    """Return `on` or `off` for what YAML makes of a bare one."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


Switch = Annotated[Literal["auto", "on", "off"], BeforeValidator(switch_name)]


def zero_if_auto(value: object) -> object:
    """Return 0 for `auto`."""
    return 0 if value == "auto" else value


def none_if_auto(value: object) -> object:
    """Return None for `auto` and for an empty input."""
    return None if value in ("auto", "") else value


def is_template_text(chat_template: str) -> bool:
    """Whether a value of `chat_template` is a template itself, not a name or a path."""
    return "{{" in chat_template or "{%" in chat_template


def known_template(value: str) -> str:
    """Return a value of `chat_template`; raises ValueError for what is none."""
    is_file = value.lower().endswith(".jinja")
    if not (value in CHAT_TEMPLATES or is_file or is_template_text(value)):
        raise ValueError(f"choose {', '.join(CHAT_TEMPLATES)} or the path of a .jinja file")
    return value


def methods_of(info: FieldInfo) -> tuple[str, ...]:
    """Return the methods that read a setting, empty for all."""
    extra = info.json_schema_extra
    return tuple(extra["methods"]) if isinstance(extra, dict) else ()  # type: ignore[arg-type]
