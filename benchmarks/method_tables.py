"""Ratios and tables of `benchmarks.methods`. No torch."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.trainers import Reply

WARM_UP = 2
CACHED, LIVE, ORPO = "DPO, reference kept", "DPO, reference in the step", "ORPO"
TRL_DPO, TRL_ORPO = "TRL DPOTrainer", "TRL ORPOTrainer"
FORWARDS = {CACHED: "2 (and 2 once)", LIVE: "4", ORPO: "2", TRL_DPO: "4", TRL_ORPO: "2"}
"""Sequences, prompt with one response, that a step computes for a pair."""
TARGETS = (
    (TRL_DPO, CACHED, "at least 1.6"),
    (ORPO, LIVE, "at most 0.72"),
    (LIVE, CACHED, ""),
    (ORPO, CACHED, ""),
    (TRL_ORPO, ORPO, ""),
    (TRL_ORPO, TRL_DPO, ""),
)


@dataclass(frozen=True)
class Ratio:
    """Time of one trainer by another's for the same steps: median and quartiles."""

    name: str
    target: str
    wall: tuple[float, float, float]
    processor: tuple[float, float, float]

    @classmethod
    def of(cls, name: str, target: str, one: Sequence[Reply], other: Sequence[Reply]) -> Ratio:
        """Compare the replies of two trainers, step by step."""
        pairs = list(zip(one, other, strict=True))
        return cls(
            name,
            target,
            _spread([a.seconds / b.seconds for a, b in pairs]),
            _spread([a.processor_seconds / b.processor_seconds for a, b in pairs]),
        )


def _spread(ratios: Sequence[float]) -> tuple[float, float, float]:
    low, median, high = statistics.quantiles(ratios, n=4)
    return median, low, high


def ratios_of(replies: Mapping[str, Sequence[Reply]]) -> list[dict[str, Any]]:
    """Return the ratios of `TARGETS`, without the steps that warm up."""
    timed = {name.partition(", batch")[0]: own[WARM_UP:] for name, own in replies.items()}
    return [
        asdict(Ratio.of(f"{one} by {other}", target, timed[one], timed[other]))
        for one, other, target in TARGETS
    ]


def to_text(entry: Mapping[str, Any]) -> str:
    """Return a cell as two tables: what a pair costs, and ratios with their quartiles."""
    first = entry["results"][0]
    lines = [
        f"**{entry['cell']}**, {entry['pairs_per_step']} pairs and "
        f"{entry['unique_tokens_a_step']:.0f} tokens a step, median of {first['steps']} steps",
        "",
        "| trainer | forwards/pair | s/pair | processor s/pair | GB above weights | first loss |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in entry["results"]:
        cells = (
            one["name"],
            FORWARDS[one["name"].partition(", batch")[0]],
            f"{one['seconds'] / entry['pairs_per_step']:.2f}",
            f"{one['processor_seconds'] / entry['pairs_per_step']:.2f}",
            f"{one['bytes_above_weights'] / 1e9:.2f}",
            f"{one['first_loss']:.4f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "| ratio, median (quartiles) | wall time | processor time | target |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {one['name']} | {_in_words(one['wall'])} | {_in_words(one['processor'])} | "
        f"{one['target'] or '–'} |"
        for one in entry["ratios"]
    ]
    return "\n".join(lines) + "\n"


def _in_words(spread: Sequence[float]) -> str:
    median, low, high = spread
    return f"{median:.2f} ({low:.2f} to {high:.2f})"


def write_page(results: Path) -> None:
    """Write the tables of a result file beside it as Markdown."""
    content = json.loads(results.read_text(encoding="utf-8"))
    versions = ", ".join(f"{name} {number}" for name, number in content["versions"].items())
    tables = "\n".join(map(to_text, content["cells"]))
    text = (
        "# ORPO and DPO, here and in TRL\n\n"
        "Time of an optimizer step divided by its pairs; the trainers step in turn on the same "
        "pairs, 4-bit weights and adapter. Wall time includes waiting for other programs of the "
        "machine, processor time does not. “Reference kept”: log-probs of the reference are "
        "measured once before the steps; their two forwards a pair are in no number of that row. "
        "TRL runs at the batch that is fastest for its DPOTrainer.\n\n"
        f"{tables}\nMeasured on {content['hardware']} with {versions}: "
        "`python -m benchmarks.methods --help`.\n"
    )
    results.with_suffix(".md").write_text(text, encoding="utf-8")
