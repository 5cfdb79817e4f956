"""λ sweep: the same training with several values of λ, as queued runs. Floor 3; no torch."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence

from orpo_qlora.config import TrainConfig, build_config
from orpo_qlora.data.pairs import Split
from orpo_qlora.data.summary import DataSummary
from orpo_qlora.errors import InputError
from orpo_qlora.runs import labels, store
from orpo_qlora.runs.process import launch
from orpo_qlora.runs.store import Run

TAG = "λ-sweep"
TICKET_CHARACTERS = 6
MOST_VALUES = 5
MOST_LAMBDA = 2.0
FACTORS = (0.5, 1.0, 2.0)
FOR_ZERO = (0.05, 0.1, 0.5)
"""Values to offer for λ = 0, whose half and double are 0 too."""


def offered_values(lambda_: float) -> tuple[float, ...]:
    """Return three values to try around one."""
    if lambda_ == 0:
        return FOR_ZERO
    values = (min(MOST_LAMBDA, float(f"{lambda_ * factor:.3g}")) for factor in FACTORS)
    return tuple(dict.fromkeys(values))


def parse_values(text: str) -> tuple[float, ...]:
    """Return the values of λ that a user typed, smallest first, each once.

    Raises:
        ConfigError: a value is no number or out of the bounds of λ.
        InputError: there are none, or too many.
    """
    parts = [part for part in re.split(r"[\s,;]+", text) if part]
    values = sorted(
        {build_config({"lambda": part}, source="the values of λ").lambda_ for part in parts}
    )
    if not values or len(values) > MOST_VALUES:
        raise InputError(
            f"A sweep has 1 to {MOST_VALUES} different values of λ; these are {len(values)}.",
            hint="Write them with spaces or commas between, like 0.05, 0.1, 0.5.",
        )
    return tuple(values)


def start_sweep(
    config: TrainConfig,
    values: Sequence[float],
    split: Split,
    report: DataSummary,
    ticket: str = "",
) -> list[str]:
    """Queue a run for each value of λ, all under a tag of their own; return their ids.

    Args:
        config: every other setting.
        values: of λ.
        split: the pairs.
        report: the data summary of their file.
        ticket: the same ticket twice makes one sweep.

    Raises:
        InputError: the home folder is not usable.
        DiskFull: the runs made before are queued.
    """
    configs = [_with_lambda(config, value) for value in values]
    tag = f"{TAG}-{ticket[:TICKET_CHARACTERS]}" if ticket else _new_tag()
    return [run.id for run in launch.start_sweep(configs, split, report, tag)]


def sweep_from(run: Run, values: Sequence[float]) -> list[str]:
    """Queue a run for each other value of λ with everything else as in a run; return all ids.

    The run itself belongs to the sweep: it has the same pairs on both sides, so its value is not
    trained again.

    Raises:
        InputError: there is no other value, or the home folder is not usable.
        DiskFull: the runs made before are queued.
    """
    others = [value for value in values if value != run.config.lambda_]
    if not others:
        raise InputError(
            f"Run “{run.title}” has λ = {run.config.lambda_:g} already.",
            hint="Give another value.",
        )
    split = Split(store.training_pairs(run.paths), store.held_out_pairs(run.paths))
    tag = next((tag for tag in run.label.tags if tag.startswith(f"{TAG}-")), "") or _new_tag()
    if tag not in run.label.tags:
        tagged = labels.label_of(run.label.name, [*run.label.tags, tag])
        labels.write_label(run.paths.label, tagged)
    base = run.config.model_copy(update={"name": run.name})
    configs = [_with_lambda(base, value) for value in others]
    found = launch.start_sweep(configs, split, run.report, tag)
    # The page compares as many runs as it has colours: the requested values come first.
    listed = sorted(found, key=lambda other: other.config.lambda_ not in values)
    return [run.id, *(other.id for other in listed if other.id != run.id)]


def _new_tag() -> str:
    return f"{TAG}-{secrets.token_hex(TICKET_CHARACTERS // 2)}"


def _with_lambda(config: TrainConfig, value: float) -> TrainConfig:
    stem = re.sub(r"\s*λ = \S+$", "", config.name)
    # The default name of a run without one ends with its λ.
    name = f"{stem} λ = {value:g}" if stem else ""
    return build_config(
        config.model_dump(by_alias=True) | {"lambda": value, "name": name[-80:].strip()}
    )
