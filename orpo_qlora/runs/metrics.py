"""The metrics of a run: their names, and reading them while they grow. Floor 3; no torch."""

from __future__ import annotations

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
    """Reads a growing `metrics.jsonl`; each call to `refresh` reads only what is new."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[dict[str, object]] = []
        self._offset = 0

    def refresh(self) -> bool:
        """Read what was appended since; True when there was anything."""
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
