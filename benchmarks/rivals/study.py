"""What is trained: short pairs of a file, one split, every variant with every seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orpo_qlora.config import TrainConfig, build_config
from orpo_qlora.data.pairs import PreferencePair, Split, load_preferences, split_pairs
from orpo_qlora.shipped_presets import read_preset

LONGEST_CHARACTERS = 250
"""Of prompt and both responses together, so that a step takes seconds on two cores."""
HELD_OUT = 0.25
SPLIT_SEED = 42
SEEDS = (1, 2, 3)
STEPS = 20
PAIRS_PER_STEP = 4
MEASURED_AT = (5, 10, 20)
"""Steps after which the held-out pairs are measured; step 0 is the base."""
LAMBDAS = (0.1, 0.5, 1.0)


@dataclass(frozen=True)
class Variant:
    """One of the trainings that are compared; every other setting is the same."""

    name: str
    settings: dict[str, object]


SFT = Variant("SFT", {"method": "sft"})
ORPO = tuple(Variant(f"ORPO λ {one:g}", {"method": "orpo", "lambda": one}) for one in LAMBDAS)
DPO = Variant("DPO β 0.1", {"method": "dpo", "beta": 0.1, "learning_rate": 1e-4})
VARIANTS = {one.name: one for one in (SFT, *ORPO, DPO)}


def config_of(variant: Variant, seed: int) -> TrainConfig:
    """Return the settings of one training: the demo preset, shortened."""
    common = read_preset("demo-cpu") | {
        "epochs": 10,  # `max_steps` ends it
        "max_steps": STEPS,
        "pairs_per_step": PAIRS_PER_STEP,
        "seed": seed,
    }
    return build_config(common | variant.settings)


def short_pairs(path: Path) -> list[PreferencePair]:
    """Return a file's pairs of at most `LONGEST_CHARACTERS`, in file order."""
    return [
        pair
        for pair in load_preferences(path).pairs
        if len(pair.prompt) + len(pair.chosen) + len(pair.rejected) <= LONGEST_CHARACTERS
    ]


def split_of(path: Path) -> Split:
    """Return the pairs to train on and the held-out ones, the same for all trainings."""
    return split_pairs(short_pairs(path), HELD_OUT, SPLIT_SEED)
