"""Sweep: the same training with several values of one or two settings, as queued runs. Floor 3.

All runs of a sweep have the same pairs, the same split and every other setting in common. They are
kept together by a tag, and each records which settings its sweep varies. No torch.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path

from orpo_qlora.config import TrainConfig, build_config, choices_of, setting_fields
from orpo_qlora.data.pairs import Split
from orpo_qlora.data.summary import DataSummary
from orpo_qlora.errors import ConfigError, InputError
from orpo_qlora.methods import beta_of
from orpo_qlora.runs import labels, store
from orpo_qlora.runs.differences import order_key, settings_that_differ, text_of, title_of, value_of
from orpo_qlora.runs.labels import RunLabel
from orpo_qlora.runs.present import setting_value
from orpo_qlora.runs.process import launch
from orpo_qlora.runs.store import Run
from orpo_qlora.setting import methods_of

TAG = re.compile(r"^(λ-)?sweep-[0-9A-Za-z]+$")
"""The tags of sweeps; up to 0.1 they began with λ."""
TICKET_CHARACTERS = 6
MOST_SETTINGS = 2
MOST_RUNS = 12
FACTORS = (0.5, 1.0, 2.0)
FOR_ZERO = {"lambda": (0.05, 0.1, 0.5)}
"""Values to offer for 0, whose half and double are 0 too."""
NOT_VARIED = {
    "name": "it only labels a run",
    "sample_prompts": "it only decides what is sampled",
    "report_to": "it changes nothing about a training",
    "held_out": "the runs of a sweep share one split",
}


@dataclass(frozen=True)
class Variation:
    """The values that a sweep gives to one setting, in order and each once."""

    setting: str
    values: tuple[object, ...]


def sweepable_settings() -> list[str]:
    """Return the settings that a sweep can vary, those of every form first."""
    return [name for name in setting_fields() if name not in NOT_VARIED]


def usual_setting(config: TrainConfig) -> str:
    """Return the setting that is swept first with a method: its weight, or the learning rate."""
    weights = [name for name in ("lambda", "beta") if _reads(config, name)]
    return weights[0] if weights else "learning_rate"


def _reads(config: TrainConfig, setting: str) -> bool:
    reading = methods_of(setting_fields()[setting])
    return not reading or config.method in reading


def offered_values(config: TrainConfig, setting: str) -> tuple[object, ...]:
    """Return values to try for a setting around the one it has: all choices, or half and double.

    Of free text that is the text; empty where the setting has no value.
    """
    info, now = setting_fields()[setting], value_of(config, setting)
    if setting == "beta" and now is None:
        now = beta_of(config)
    if choices_of(info):
        return choices_of(info)
    if isinstance(now, bool):
        return False, True
    if not isinstance(now, int | float):
        return () if now in (None, "") else (now,)
    if now == 0:
        return FOR_ZERO.get(setting, (now,))
    kind = type(now)
    near = dict.fromkeys(kind(float(f"{now * factor:.3g}")) for factor in FACTORS)
    return tuple(value for value in near if _is_valid(setting, value)) or (now,)


def _is_valid(setting: str, value: object) -> bool:
    try:
        build_config({setting: value})
    except ConfigError:
        return False
    return True


def values_text(values: Sequence[object]) -> str:
    """Return values as `parse_values` reads them."""
    texts = [setting_value(value) for value in values]
    return ("; " if any("," in text for text in texts) else ", ").join(texts)


def parse_over(text: str) -> Variation:
    """Return what a text such as `lambda=0.1,0.5` varies; raises what `parse_values` does."""
    setting, equals, values = text.partition("=")
    if not equals:
        raise ConfigError(
            f"“{text}” is not a setting with its values.",
            hint="Write --over lambda=0.1,0.5,1.",
        )
    return parse_values(setting.strip(), values)


def parse_values(setting: str, text: str) -> Variation:
    """Return the values of a setting that a user typed, numbers by size.

    Args:
        setting: its public name.
        text: values between commas, semicolons or spaces; of a setting that is free text, only
            semicolons separate once there is one.

    Raises:
        ConfigError: the setting is unknown, or a value is not valid for it.
        InputError: the setting cannot be varied, a value is there twice, or there is none.
    """
    if setting in NOT_VARIED:
        raise InputError(
            f"A sweep cannot vary {setting}: {NOT_VARIED[setting]}.",
            hint="Vary another setting, for example lambda or learning_rate.",
        )
    source = f"the values of {setting}"
    if setting not in setting_fields():
        build_config({setting: text}, source=source)
    is_text = setting_fields()[setting].annotation is str
    parts = re.split(r"\s*;\s*" if is_text and ";" in text else r"[\s,;]+", text.strip())
    # All at once, so that every wrong value is reported.
    configs = [build_config({setting: part}, source=source) for part in parts if part]
    configs.sort(key=lambda config: order_key(config, [setting]))
    values = [value_of(config, setting) for config in configs]
    if not values:
        raise InputError(
            f"There is no value of {setting}.",
            hint=f"Give two or more{_example(TrainConfig(), setting)}.",
        )
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
        raise InputError(
            f"{setting} = {setting_value(twice)} is given twice.", hint="Give each value once."
        )
    return Variation(setting, tuple(values))


def _example(config: TrainConfig, setting: str) -> str:
    """Return values to try as the end of a sentence, empty where there are none to offer."""
    offered = offered_values(config, setting)
    return f", for example {values_text(offered)}" if len(offered) > 1 else ""


def configs_of(config: TrainConfig, variations: Sequence[Variation]) -> list[TrainConfig]:
    """Return the settings of every run of a sweep: all combinations of the values.

    Raises:
        ConfigError: a combination is not valid.
        InputError: nothing is varied, more than two settings are, or the runs are too many.
    """
    names = [variation.setting for variation in variations]
    if not 1 <= len(names) <= MOST_SETTINGS:
        raise InputError(
            f"A sweep varies 1 or {MOST_SETTINGS} settings; these are {len(names)}.",
            hint="Sweep two of them, then a third one from the best run.",
        )
    if len(set(names)) < len(names):
        raise InputError(
            f"{names[0]} is varied twice.", hint="Give all its values at once, or another setting."
        )
    count = prod(len(variation.values) for variation in variations)
    if count > MOST_RUNS:
        raise InputError(
            f"A sweep has at most {MOST_RUNS} runs; these would be {count}.",
            hint="Give fewer values.",
        )
    combinations = product(*(variation.values for variation in variations))
    configs = [
        build_config(
            config.model_dump(by_alias=True) | dict(zip(names, values, strict=True)),
            source="the settings of the sweep",
        )
        for values in combinations
    ]
    for one, name in product(configs, names):
        _refuse_unread(one, name)
    return configs


def _refuse_unread(config: TrainConfig, setting: str) -> None:
    """Refuse a setting that a run's method does not read: its runs would be the same."""
    if not _reads(config, setting):
        reading = methods_of(setting_fields()[setting])
        raise InputError(
            f"The method {config.method} does not read {title_of(setting)}: runs with different "
            "values would be the same.",
            hint=f"Choose another setting, or a method that reads it: {', '.join(reading)}.",
        )


def runs_from(config: TrainConfig, variations: Sequence[Variation]) -> list[TrainConfig]:
    """Return the settings of a new sweep; raises what `configs_of` does.

    Raises:
        InputError: a setting has a single value.
    """
    configs = configs_of(config, variations)
    for variation in variations:
        if len(variation.values) < 2:
            raise InputError(
                f"{variation.setting} has a single value, so there is nothing to compare.",
                hint=f"Give two or more{_example(config, variation.setting)}; a single run is "
                "“Start training” or `orpo-qlora train`.",
            )
    return configs


def runs_around(run: Run, variations: Sequence[Variation]) -> list[TrainConfig]:
    """Return the settings that a sweep adds to a run; raises what `configs_of` does.

    Raises:
        InputError: the run has the only combination of values.
    """
    names = [variation.setting for variation in variations]
    own = order_key(run.config, names)
    wanted = configs_of(run.config, variations)
    others = [config for config in wanted if order_key(config, names) != own]
    if not others:
        raise InputError(
            f"Run “{run.title}” has {text_of(run.config, names)} already.",
            hint="Give another value.",
        )
    return others


def start_sweep(
    config: TrainConfig,
    variations: Sequence[Variation],
    split: Split,
    report: DataSummary,
    ticket: str = "",
) -> list[Run]:
    """Queue a run for each combination of values, under a tag of their own; return them in order.

    Args:
        config: every other setting.
        variations: one or two settings with their values.
        split: the pairs.
        report: the data summary of their file.
        ticket: the same ticket twice makes one sweep.

    Raises:
        InputError: what `runs_from` raises, or the home folder is not usable.
        DiskFull: the runs made before are queued.
    """
    names = tuple(variation.setting for variation in variations)
    stem = config.name or (Path(report.source).stem if names != ("lambda",) else "")
    configs = [_named(one, stem, names) for one in runs_from(config, variations)]
    tag = f"sweep-{ticket[:TICKET_CHARACTERS]}" if ticket else _new_tag()
    return launch.queue_group(configs, split, report, RunLabel(tags=(tag,), varied=names))


def sweep_from(run: Run, variations: Sequence[Variation]) -> list[Run]:
    """Queue a run for each other combination of values, everything else as in a run.

    The run itself belongs to the sweep: it has the same pairs on both sides, so its values are not
    trained again. More values later join the same sweep.

    Returns:
        Every run of the sweep: `run` first, then those that were asked for, then earlier ones.

    Raises:
        InputError: what `runs_around` raises, or the home folder is not usable.
        DiskFull: the runs made before are queued.
    """
    names = tuple(variation.setting for variation in variations)
    others = runs_around(run, variations)
    tag = _tag_of(run, names) or _new_tag()
    tagged = labels.label_of(run.label.name, [*dict.fromkeys([*run.label.tags, tag])])
    # The run records what is varied too, so that it is labelled like the others.
    labels.write_label(run.paths.label, tagged.model_copy(update={"varied": names}))
    stem = run.name or (Path(run.report.source).stem if names != ("lambda",) else "")
    split = Split(store.training_pairs(run.paths), store.held_out_pairs(run.paths))
    configs = [_named(config, stem, names) for config in others]
    label = RunLabel(tags=(tag,), varied=names)
    found = launch.queue_group(configs, split, run.report, label)
    asked = {order_key(config, names) for config in others}
    listed = sorted(found, key=lambda other: order_key(other.config, names) not in asked)
    return [store.read_run(run.paths), *(other for other in listed if other.id != run.id)]


def group_of(tag: str) -> list[Run]:
    """Return the runs of a sweep in the order of what it varies; “last” is the newest sweep.

    Raises:
        InputError: no run has this tag.
    """
    runs = store.list_runs()
    if tag == "last":
        tag = next((tag for run in runs if (tag := tag_of(run))), "last")
    found = [run for run in runs if tag in run.label.tags]
    if not found:
        known = list(dict.fromkeys(filter(None, map(tag_of, runs))))
        raise InputError(
            f"No run has the tag “{tag}”.",
            hint=f"Sweeps: {', '.join(known)}." if known else "`orpo-qlora sweep` queues one.",
        )
    names = found[0].label.varied or settings_that_differ(found)
    return sorted(found, key=lambda run: order_key(run.config, names))


def tag_of(run: Run) -> str:
    """Return the tag of the sweep that a run belongs to, empty without one."""
    return next((tag for tag in run.label.tags if TAG.match(tag)), "")


def _tag_of(run: Run, names: tuple[str, ...]) -> str:
    """Return the tag of the run's sweep if that varies the same settings."""
    is_same = run.label.varied in ((), names)
    return tag_of(run) if is_same else ""


def _new_tag() -> str:
    return f"sweep-{secrets.token_hex(TICKET_CHARACTERS // 2)}"


def _named(config: TrainConfig, stem: str, names: Sequence[str]) -> TrainConfig:
    """Return the settings with a name that ends with what is varied.

    Without a stem the name stays empty: the default one ends with λ.
    """
    titles = "|".join(re.escape(title_of(name)) for name in setting_fields())
    plain = re.sub(rf"(?:^|,? )(?:{titles}) = [^,]*$", "", stem)
    plain = re.sub(rf"(?:^|,? )(?:{titles}) = [^,]*$", "", plain)
    name = f"{plain} {text_of(config, names)}" if plain else ""
    return config.model_copy(update={"name": name[-labels.NAME_CHARACTERS :].strip()})
