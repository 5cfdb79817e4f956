"""The metrics of a run: their names, and reading them while they grow. Floor 3; no torch."""

from __future__ import annotations

import copy
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from orpo_qlora import storage

EVAL_PREFIX = "eval/"
MOST_POINTS = 4096
PIECE_BYTES = 8_000_000

Point = tuple[int, float]


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


class Series:
    """The points of one quantity, oldest first, in bounded room.

    Up to `MOST_POINTS` every one of them; beyond, the lowest and the highest of equal stretches, so
    a spike stays a spike. Adding a point takes the same time however many there are.
    """

    def __init__(self) -> None:
        self._kept: list[Point] = []
        self._width = 1
        self._stretch: list[Point] = []
        self._first: Point | None = None
        self._last: Point | None = None

    def add(self, step: int, value: float) -> None:
        """Take the next point."""
        self._last = (step, value)
        self._first = self._first or self._last
        self._stretch.append(self._last)
        if len(self._stretch) == self._width:
            self._kept += _extremes(self._stretch)
            self._stretch = []
        if len(self._kept) >= MOST_POINTS:
            self._halve()

    def _halve(self) -> None:
        # Every four points are four stretches of one, or two of more with two extremes each.
        fours = [self._kept[start : start + 4] for start in range(0, len(self._kept), 4)]
        self._kept = [point for four in fours for point in _extremes(four)]
        self._width = 4 if self._width == 1 else 2 * self._width

    def copy(self) -> Series:
        """Return the points so far; adding to one does not change the other."""
        same = copy.copy(self)
        same._kept, same._stretch = [*self._kept], [*self._stretch]
        return same

    def points(self) -> list[Point]:
        """Return what is kept; the first and the latest point are always among it."""
        if self._first is None or self._last is None:
            return []
        found = dict([self._first, *self._kept, *_extremes(self._stretch), self._last])
        return list(found.items())


def _extremes(points: Sequence[Point]) -> list[Point]:
    """Return the lowest and the highest point in order of their steps; one if they are the same."""
    if len(points) < 2:
        return list(points)
    low = min(points, key=lambda point: point[1])
    high = max(points, key=lambda point: point[1])
    return sorted({low, high})


class MetricsTail:
    """Reads a growing `metrics.jsonl`; each call to `refresh` reads only what is new.

    A resumed run replaces the file by a shorter one, which is then read from its beginning.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        """Records read so far."""
        self._series: defaultdict[str, Series] = defaultdict(Series)
        self._offset = 0
        self._inode = 0

    def refresh(self) -> bool:
        """Read what was appended since; True when there was anything."""
        inode = self.path.stat().st_ino if self.path.exists() else self._inode
        if inode != self._inode:
            self._series.clear()
            self.count, self._offset, self._inode = 0, 0, inode
        before = self.count
        while True:
            fresh, offset = storage.read_json_lines(self.path, self._offset, PIECE_BYTES)
            for record in fresh:
                self._take(record)
            if offset == self._offset:
                return self.count > before
            self._offset = offset

    def _take(self, record: dict[str, object]) -> None:
        self.count += 1
        step = record.get("step")
        if not isinstance(step, int):
            return
        for name, value in record.items():
            if isinstance(value, int | float):
                self._series[name].add(step, float(value))

    def series(self, name: str, *, held_out: bool = False) -> list[Point]:
        """Return (step, value) of one metric, measured on training or held-out pairs.

        All of them up to `MOST_POINTS`, then as `Series` says.
        """
        key = EVAL_PREFIX + name if held_out else name
        return self._series[key].points() if key in self._series else []

    def snapshot(self) -> MetricsTail:
        """Return what is known now, which no longer grows."""
        still = MetricsTail(self.path)
        still.count = self.count
        still._series.update({name: series.copy() for name, series in self._series.items()})
        return still


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
