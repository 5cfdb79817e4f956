"""The metrics of a run: their names, and reading them while they grow. Floor 3; no torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from orpo_qlora import storage

EVAL_PREFIX = "eval/"


@dataclass(frozen=True)
class Metric:
    """One quantity of `metrics.jsonl`."""

    name: str
    unit: str
    meaning: str
    trl_name: str
    """What TRL's ORPOTrainer calls the same quantity, or how its own differs; empty if none."""


METRICS = (
    Metric("step", "count", "Optimizer steps taken so far.", "step"),
    Metric("epoch", "passes", "Passes over the training pairs so far.", "epoch"),
    Metric("loss", "nats", "nll_loss + λ · or_loss.", "loss"),
    Metric("nll_loss", "nats", "Cross-entropy of the chosen sequence.", "nll_loss"),
    Metric(
        "or_loss", "nats", "−log σ(log_odds_ratio), mean over pairs.", "minus its log_odds_ratio"
    ),
    Metric(
        "log_odds_ratio",
        "nats",
        "log odds(chosen) − log odds(rejected), mean over pairs.",
        "log_odds_chosen",
    ),
    Metric("logps/chosen", "nats", "Mean token log-prob of the chosen answers.", "logps/chosen"),
    Metric(
        "logps/rejected", "nats", "Mean token log-prob of the rejected answers.", "logps/rejected"
    ),
    Metric("rewards/chosen", "nats", "λ · logps/chosen.", "rewards/chosen"),
    Metric("rewards/rejected", "nats", "λ · logps/rejected.", "rewards/rejected"),
    Metric("rewards/margins", "nats", "rewards/chosen − rewards/rejected.", "rewards/margins"),
    Metric(
        "rewards/accuracies",
        "share",
        "Pairs whose chosen answer has the higher mean token log-prob.",
        "rewards/accuracies",
    ),
    Metric("grad_norm", "L2", "Length of the gradient before clipping.", "grad_norm"),
    Metric("learning_rate", "", "Step size used by this optimizer step.", "learning_rate"),
    Metric("pairs", "count", "Pairs in this step or evaluation.", ""),
    Metric("tokens", "count", "Tokens sent through the model.", ""),
    Metric("seconds", "s", "Wall time of this step or evaluation.", ""),
    Metric("peak_memory_bytes", "bytes", "Peak memory of the worker so far.", ""),
)
NAMES = tuple(metric.name for metric in METRICS)


class MetricsTail:
    """Reads a growing `metrics.jsonl`; each call to `refresh` reads only what is new.

    A resumed run replaces the file by a shorter one, which is then read from its beginning.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[dict[str, object]] = []
        self._offset = 0
        self._inode = 0

    def refresh(self) -> bool:
        """Read what was appended since; True when there was anything."""
        inode = self.path.stat().st_ino if self.path.exists() else self._inode
        if inode != self._inode:
            self.records, self._offset, self._inode = [], 0, inode
        fresh, self._offset = storage.read_json_lines(self.path, self._offset)
        self.records.extend(fresh)
        return bool(fresh)

    def series(self, name: str, *, held_out: bool = False) -> list[tuple[int, float]]:
        """Return (step, value) of one metric, measured on training or held-out pairs."""
        key = EVAL_PREFIX + name if held_out else name
        points = []
        for record in self.records:
            step, value = record.get("step"), record.get(key)
            if isinstance(step, int) and isinstance(value, int | float):
                points.append((step, float(value)))
        return points


def rewind(path: Path, keep: Callable[[dict[str, object]], bool]) -> None:
    """Replace a file of records by those to keep; a crash leaves the old file or the new one.

    Raises:
        DiskFull: the file is as it was.
    """
    records, _ = storage.read_json_lines(path)
    kept = [record for record in records if keep(record)]
    if path.exists() and len(kept) < len(records):
        lines = [json.dumps(record, ensure_ascii=False, allow_nan=False) for record in kept]
        storage.write_whole(path, "".join(f"{line}\n" for line in lines))


def is_of_step(record: dict[str, object], last_step: int) -> bool:
    """Tell whether a record was written by the time of `last_step`."""
    step = record.get("step")
    return isinstance(step, int) and step <= last_step
