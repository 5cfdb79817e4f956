"""In which settings runs differ, as names, values and text. Floor 3; no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from orpo_qlora.config import TrainConfig, choices_of, setting_fields
from orpo_qlora.runs import present
from orpo_qlora.runs.store import Run

OrderKey = tuple[tuple[int, float, str], ...]
LABELS = {"name", "sample_prompts", "report_to"}
"""Settings that change nothing about what is trained."""


def value_of(config: TrainConfig, setting: str) -> object:
    """Return a setting's value by its public name (`lambda`, not `lambda_`)."""
    return next(
        getattr(config, name)
        for name, info in TrainConfig.model_fields.items()
        if (info.alias or name) == setting
    )


def title_of(setting: str) -> str:
    """Return a setting's label as it appears within a sentence: “λ”, “learning rate”."""
    title = str(setting_fields()[setting].title)
    return title if title.startswith(("LoRA", "NLL")) else title[:1].lower() + title[1:]


def text_of(config: TrainConfig, settings: Iterable[str]) -> str:
    """Return settings with their values: “λ = 0.1, learning rate = 0.0002”."""
    values = ((title_of(name), present.setting_value(value_of(config, name))) for name in settings)
    return ", ".join(f"{title} = {value}" for title, value in values)


def order_key(config: TrainConfig, settings: Iterable[str]) -> OrderKey:
    """Return a key that orders runs by settings: numbers by size, choices as the form lists them.

    Numbers come before texts.
    """
    return tuple(map(_key_of, ((name, value_of(config, name)) for name in settings)))


def _key_of(named: tuple[str, object]) -> tuple[int, float, str]:
    name, value = named
    if isinstance(value, int | float):
        return 0, float(value), ""
    choices, text = choices_of(setting_fields()[name]), str(value)
    return 1, float(choices.index(text)) if text in choices else float(len(choices)), text


def settings_that_differ(runs: Sequence[Run]) -> list[str]:
    """Return the settings in which runs differ, labels aside, in the order of the form."""
    return [
        name
        for name in setting_fields()
        if name not in LABELS and len({value_of(run.config, name) for run in runs}) > 1
    ]


def varied_settings(runs: Sequence[Run]) -> list[str]:
    """Return what the runs' sweeps recorded that they vary, or else in which settings runs differ.

    Of runs of several sweeps these are the settings of all.
    """
    if runs and all(run.label.varied for run in runs):
        return list(dict.fromkeys(name for run in runs for name in run.label.varied))
    return settings_that_differ(runs)
