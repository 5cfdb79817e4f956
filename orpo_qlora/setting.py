"""How a setting is declared: default, group, label, help, bounds, and which methods read it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

MethodName = Literal["orpo", "sft", "dpo", "ipo", "simpo", "cpo", "kto"]
Group = Literal["Model", "Objective", "Optimisation", "Data", "Memory", "Logging"]


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


def zero_if_auto(value: object) -> object:
    """Return 0 for `auto`."""
    return 0 if value == "auto" else value


def none_if_auto(value: object) -> object:
    """Return None for `auto` and for an empty input."""
    return None if value in ("auto", "") else value
