"""Whether the processes that share a run compute the same numbers. Floor 3."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version

import torch

from orpo_qlora.config import TrainConfig
from orpo_qlora.errors import ConfigError
from orpo_qlora.models.devices.hardware import choose_arithmetic
from orpo_qlora.orpo.processes.ranks import Ranks
from orpo_qlora.orpo.rows.tokens import TokenizedPair

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")


def compare_machines(ranks: Ranks, config: TrainConfig) -> list[str]:
    """Return notes on GPUs and packages that differ, which changes the last digits.

    Raises:
        ConfigError: on every rank, where some would compute in another number type.
        UnsupportedModel: a GPU does not have the number type that is set.
    """
    facts = ranks.gather(
        lambda: (
            str(choose_arithmetic(config.compute_dtype).dtype).removeprefix("torch."),
            torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
            ", ".join(f"{name} {version(name)}" for name in PACKAGES),
        )
    )
    dtypes, devices, versions = zip(*facts, strict=True)
    _refuse_unequal(
        "number type", dtypes, "Use GPUs of one kind, or create the run with compute_dtype=float32."
    )
    return [
        f"Differs between the processes, which changes the last digits: {_listed(values)}."
        for values in (devices, versions)
        if len(set(values)) > 1
    ]


def refuse_other_files(ranks: Ranks, files: Mapping[str, str]) -> None:
    """Refuse processes whose files of the base model differ.

    Raises:
        ConfigError: on every rank.
    """
    _refuse_unequal(
        "fingerprint of the base model's files",
        ranks.gather(lambda: _digest(sorted(files.items()))),
        "Set revision to a commit, or copy the base model's folder to every machine.",
    )


def refuse_other_pairs(ranks: Ranks, pairs: Sequence[TokenizedPair]) -> None:
    """Refuse processes that have tokenised the pairs in another way, as other packages may.

    Raises:
        ConfigError: on every rank.
    """
    sizes = [(p.row, len(p.prompt), len(p.chosen), len(p.rejected)) for p in pairs]
    _refuse_unequal(
        "fingerprint of the tokenised pairs",
        ranks.gather(lambda: _digest(sizes)),
        f"Install the same versions of {', '.join(PACKAGES)} on every machine.",
    )


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:12]


def _refuse_unequal(what: str, values: Sequence[str], hint: str) -> None:
    if len(set(values)) > 1:
        raise ConfigError(
            f"The processes of the run would not compute the same: {what} {_listed(values)}.",
            hint=hint,
        )


def _listed(values: Sequence[str]) -> str:
    """Return each distinct value with its ranks."""
    parts = []
    for value in dict.fromkeys(values):
        ranks = ", ".join(str(rank) for rank, one in enumerate(values) if one == value)
        parts.append(f"{value} (process {ranks})")
    return ", ".join(parts)
