"""The metrics of a run: their names, and reading them while they grow. Floor 3; no torch."""

from __future__ import annotations

import json
import math
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orpo_qlora import storage
from orpo_qlora.runs.curves.series import Course, Point, Series, weight_for
from orpo_qlora.storage import FileStamp

EVAL_PREFIX = "eval/"
PIECE_BYTES = 1_000_000
MARK_BYTES = 64
"""Bytes before the current offset that are compared to detect a replaced file."""
MOST_HELD = 24_000_000
"""Points of all runs kept in memory, 12 bytes each: one run of a million steps, or a thousand of a
thousand."""
NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
NOTHING = Series()
ACCURACY = "logps/accuracies"
"""The preference accuracy: the same measurement under every method."""
EARLIER_ACCURACY = "rewards/accuracies"
"""Name of the same in runs up to version 0.1, which were all of ORPO."""


@dataclass(frozen=True)
class Metric:
    """One quantity of `metrics.jsonl`."""

    name: str
    unit: str
    meaning: str
    trl_name: str
    """What TRL's trainers call the same quantity, or how theirs differs; empty if none."""


METRICS = (
    Metric("step", "count", "Optimizer steps taken so far.", "step"),
    Metric("epoch", "passes", "Passes over the training pairs so far.", "epoch"),
    Metric(
        "loss",
        "nats",
        "What is trained. orpo: nll_loss + λ · or_loss; cpo: preference_loss + α · nll_loss; sft: "
        "nll_loss; others: preference_loss.",
        "loss",
    ),
    Metric(
        "nll_loss",
        "nats",
        "Cross-entropy of the chosen sequence (orpo, sft) or response (cpo).",
        "nll_loss",
    ),
    Metric(
        "or_loss",
        "nats",
        "orpo: −log σ(log_odds_ratio), mean over pairs.",
        "minus its log_odds_ratio",
    ),
    Metric(
        "preference_loss",
        "nats",
        "The method's preference term, mean over pairs, without its weight; orpo: with the "
        "probability ratio.",
        "",
    ),
    Metric(
        "log_odds_ratio",
        "nats",
        "log odds(chosen) − log odds(rejected), mean over pairs.",
        "log_odds_chosen",
    ),
    Metric("logps/chosen", "nats", "Mean token log-prob of the chosen responses.", "logps/chosen"),
    Metric(
        "logps/rejected", "nats", "Mean token log-prob of the rejected responses.", "logps/rejected"
    ),
    Metric(
        "logps/accuracies",
        "share",
        "Pairs whose chosen response has the higher mean token log-prob, whatever the method: the "
        "accuracy to compare methods by. Of single responses, all combinations of a chosen with a "
        "rejected one.",
        "",
    ),
    Metric(
        "rewards/chosen",
        "nats",
        "orpo: λ · logps/chosen; simpo: β · logps/chosen; cpo: β · summed log-prob; dpo, ipo, kto: "
        "β · (summed log-prob − the reference's); sft: none.",
        "rewards/chosen",
    ),
    Metric("rewards/rejected", "nats", "Likewise, of the rejected responses.", "rewards/rejected"),
    Metric("rewards/margins", "nats", "rewards/chosen − rewards/rejected.", "rewards/margins"),
    Metric(
        "rewards/accuracies",
        "share",
        "Pairs whose chosen response has the higher reward; orpo and sft: the higher mean token "
        "log-prob. Of single responses as above; left out while the policy is the reference.",
        "rewards/accuracies",
    ),
    Metric(
        "kl",
        "nats",
        "kto: mean summed log-prob minus the reference's of mismatched responses, at least 0.",
        "kl",
    ),
    Metric("grad_norm", "L2", "Length of the gradient before clipping.", "grad_norm"),
    Metric("learning_rate", "", "Step size used by this optimizer step.", "learning_rate"),
    Metric("pairs", "count", "Pairs, or single responses, in this step or evaluation.", ""),
    Metric("tokens", "count", "Tokens sent through the model.", ""),
    Metric("seconds", "s", "Wall time of this step or evaluation.", ""),
    Metric(
        "peak_memory_bytes",
        "bytes",
        "Peak memory: on a GPU allocated in this step or evaluation, else of the worker so far.",
        "",
    ),
    Metric(
        "reserved_memory_bytes",
        "bytes",
        "On a GPU: the most memory that torch held in this step or evaluation, gaps included.",
        "",
    ),
    Metric(
        "forwards",
        "count",
        "Sequences, prompt with one response, that the model computed in this step or evaluation; "
        "kto: those of the mismatched responses included.",
        "",
    ),
    Metric(
        "kl_base",
        "nats",
        "KL(tuned ‖ base) of the next token over the whole vocabulary, mean over the tokens of the "
        "held-out chosen responses; in the last evaluation only.",
        "",
    ),
)
NAMES = tuple(metric.name for metric in METRICS)


TOKENS_PER_SECOND = "tokens_per_second"
"""Not in the file: the tokens of a step, or of an evaluation, by its seconds."""


class MetricsTail:
    """Reads a growing `metrics.jsonl`; each call to `refresh` reads only what is new.

    A resumed run replaces the file by a shorter one, which is then read from its beginning. Threads
    may share one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        """Records read so far."""
        self.points_held = 0
        """Points of all quantities in memory; readable without waiting for a refresh."""
        self._series: dict[str, Series] = {}
        self._offset = 0
        self._seen: FileStamp | None = None
        self._share_read = 1.0
        self._last_bytes = b""
        self._reading = threading.RLock()

    def refresh(self, most_seconds: float = math.inf) -> bool:
        """Read what was appended since; True when there was anything.

        Args:
            most_seconds: when to leave the rest of a long file for the next call.
        """
        with self._reading:
            now = _stamp_of(self.path)
            if now == self._seen:
                return False
            if self._is_another(now):
                self._forget()
            deadline = time.monotonic() + most_seconds
            before = self.count
            while self._read_piece():
                if time.monotonic() > deadline:
                    self._share_read = min(1.0, self._offset / now.size_bytes) if now else 1.0
                    return True
            self._seen, self._share_read = now, 1.0
            return self.count > before

    def _is_another(self, now: FileStamp | None) -> bool:
        """Whether the file no longer begins with what was read."""
        if now is None or not self._offset:
            return False
        if now.size_bytes < self._offset:
            return True
        # A replaced file may have got the number of an older one.
        return self._bytes_read_last() != self._last_bytes

    def _bytes_read_last(self) -> bytes:
        length = min(MARK_BYTES, self._offset)
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset - length)
                return file.read(length)
        except FileNotFoundError:
            return b""

    def _forget(self) -> None:
        # What snapshots hold is left alone.
        self._series = {}
        self.count = self.points_held = self._offset = 0

    def _read_piece(self) -> bool:
        fresh, offset = storage.read_json_lines(self.path, self._offset, PIECE_BYTES)
        self._take(fresh)
        if offset == self._offset:
            return False
        self._offset = offset
        self._last_bytes = self._bytes_read_last()
        return True

    def _take(self, records: Sequence[dict[str, object]]) -> None:
        self.count += len(records)
        fresh: defaultdict[str, tuple[list[int], list[float]]]
        fresh = defaultdict(lambda: ([], []))
        for record in records:
            step = record.get("step")
            if not isinstance(step, int):
                continue
            record |= _derived(record)
            for name, value in record.items():
                number = NON_FINITE.get(value) if isinstance(value, str) else value
                if isinstance(number, int | float):
                    steps, values = fresh[name]
                    steps.append(step)
                    values.append(number)
        for name, (steps, values) in fresh.items():
            series = self._series.setdefault(name, Series())
            if [series.last_step, *steps] == sorted([series.last_step, *steps]):
                series.extend(steps, values)
            else:
                # The base model's evaluation, step 0, may come later. Snapshots keep the old one.
                self._series[name] = series.merged(steps, values)
            self.points_held += len(steps)

    def series(self, name: str, *, held_out: bool = False) -> list[Point]:
        """Return every finite (step, value) of one metric, on training or held-out pairs."""
        return self.snapshot().course(name, held_out=held_out).points()

    def snapshot(self) -> Metrics:
        """Return what is known now, which no longer grows."""
        with self._reading:
            counted = {name: (series, len(series)) for name, series in self._series.items()}
            return Metrics(self.count, self._share_read, counted)


@dataclass(frozen=True)
class Metrics:
    """The metrics of a run as they were at one moment."""

    count: int
    """Records."""
    share_read: float
    """How much of the file that is, below 1 while a long one is being read."""
    counted: Mapping[str, tuple[Series, int]]

    def course(self, name: str, *, held_out: bool = False, smoothing: float = 0.0) -> Course:
        """Return one metric, on training or held-out pairs, all points.

        `smoothing`, from 0 to below 1, is a share of the picture (see `series.weight_for`).
        """
        series, count = self.counted.get(_key(name, held_out), (NOTHING, 0))
        return series.course(count, weight_for(smoothing, count))

    def series(self, name: str, *, held_out: bool = False) -> list[Point]:
        """Return every finite (step, value) of one metric, on training or held-out pairs."""
        return self.course(name, held_out=held_out).points()

    def before(self, name: str) -> float | None:
        """Return one metric on held-out pairs before the first step, None if not measured.

        Of a run that starts from an adapter it is that adapter's, recorded after the base model's.
        """
        values = [value for step, value in self.series(name, held_out=True) if step == 0]
        return values[-1] if values else None

    def broken(self, name: str, *, held_out: bool = False) -> list[int]:
        """Return the steps at which a metric was not a finite number."""
        return list(self.counted.get(_key(name, held_out), (NOTHING, 0))[0].broken)


def _key(name: str, held_out: bool) -> str:
    return EVAL_PREFIX + name if held_out else name


def accuracy_of(record: Mapping[str, object], prefix: str) -> dict[str, object]:
    """Return the accuracy of a record that an earlier version wrote, else nothing."""
    earlier = record.get(prefix + EARLIER_ACCURACY)
    return {} if earlier is None else {prefix + ACCURACY: record.get(prefix + ACCURACY, earlier)}


def _derived(record: dict[str, object]) -> dict[str, object]:
    found: dict[str, object] = {}
    for prefix in ("", EVAL_PREFIX):
        found |= accuracy_of(record, prefix)
        tokens, seconds = record.get(f"{prefix}tokens"), record.get(f"{prefix}seconds")
        if isinstance(tokens, int | float) and isinstance(seconds, int | float) and seconds > 0:
            found[prefix + TOKENS_PER_SECOND] = tokens / seconds
    return found


def _stamp_of(path: Path) -> FileStamp | None:
    try:
        return FileStamp.of(path)
    except FileNotFoundError:
        return None


_tails: OrderedDict[Path, MetricsTail] = OrderedDict()
_choosing = threading.Lock()


def shared_tail(path: Path) -> MetricsTail:
    """Return the one tail of a file that all callers in this process share.

    The least recently used are dropped when all hold more than `MOST_HELD` points.
    """
    with _choosing:
        tail = _tails.setdefault(path, MetricsTail(path))
        _tails.move_to_end(path)
        held = sum(other.points_held for other in _tails.values())
        while held > MOST_HELD and len(_tails) > 1:
            held -= _tails.popitem(last=False)[1].points_held
        return tail


def as_json(record: Mapping[str, float]) -> dict[str, object]:
    """Return a record whose values JSON can hold: non-finite ones become text."""
    return {
        name: value if math.isfinite(value) else _text_for(value) for name, value in record.items()
    }


def _text_for(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def rewind(path: Path, keep: Callable[[dict[str, object]], bool]) -> list[dict[str, object]]:
    """Reduce a file of records to those to keep and return these; atomic.

    Raises:
        DiskFull: the file is as it was.
    """
    records, _ = storage.read_json_lines(path)
    kept = [record for record in records if keep(record)]
    if path.exists() and len(kept) < len(records):
        lines = [json.dumps(record, ensure_ascii=False, allow_nan=False) for record in kept]
        storage.write_whole(path, "".join(f"{line}\n" for line in lines))
    return kept


def is_of_step(record: dict[str, object], last_step: int) -> bool:
    """Whether a record belongs to `last_step` or an earlier step."""
    step = record.get("step")
    return isinstance(step, int) and step <= last_step
