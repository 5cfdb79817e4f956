"""Latest measurements of a run, without reading its whole history. Floor 3.

`metrics.jsonl` may have a million lines and a thousand runs may be listed: a file is read backwards
from its end until both kinds of line are found, and afterwards only what was appended.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from orpo_qlora.runs.curves.metrics import EVAL_PREFIX, accuracy_of

PIECE_BYTES = 1_000_000
_MARK = f'"{EVAL_PREFIX}'.encode()


@dataclass(frozen=True)
class Measured:
    """The numbers of one step or evaluation, by metric name without prefix; some may be missing."""

    step: int
    values: Mapping[str, float]

    def value(self, name: str) -> float | None:
        """Return a metric, None if it was not measured."""
        return self.values.get(name)

    @property
    def gap(self) -> float | None:
        """Mean token log-prob of chosen minus rejected, in nats, whatever the method."""
        chosen, rejected = self.value("logps/chosen"), self.value("logps/rejected")
        return None if chosen is None or rejected is None else chosen - rejected


@dataclass(frozen=True)
class Results:
    """The latest measurement on each side of the data, None before the first."""

    training: Measured | None = None
    held_out: Measured | None = None


NOTHING = Results()


class ResultsTail:
    """The latest lines of one growing `metrics.jsonl`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._results = NOTHING
        self._inode = 0
        self._read_to = 0

    def refresh(self) -> Results:
        """Return the results so far; reads nothing that was read before."""
        try:
            about = self.path.stat()
        except FileNotFoundError:
            return NOTHING
        if about.st_ino != self._inode or about.st_size < self._read_to:
            # A resumed run replaces the file by a shorter one.
            self._results, self._inode, self._read_to = NOTHING, about.st_ino, 0
        if about.st_size > self._read_to:
            self._take(about.st_size)
        return self._results

    def _take(self, size: int) -> None:
        held_out = training = None
        with self.path.open("rb") as file:
            end = _end_of_lines(file, self._read_to, size)
            for line in _lines_backwards(file, self._read_to, end):
                if _MARK in line:
                    held_out = _later(held_out, _measured(line, EVAL_PREFIX))
                else:
                    training = training or _measured(line, "")
                if held_out and held_out.step > 0 and training:
                    break
        before = self._results
        self._results = Results(training or before.training, _later(held_out, before.held_out))
        self._read_to = end


def _later(found: Measured | None, other: Measured | None) -> Measured | None:
    """Return the one of the higher step: the base model's, step 0, may be the last line."""
    if found is None or other is None:
        return found or other
    return other if other.step > found.step else found


def _end_of_lines(file: BinaryIO, low: int, high: int) -> int:
    """Return the offset after the last newline between two; what follows is still being written."""
    end = high
    while end > low:
        start = max(low, end - PIECE_BYTES)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return low


def _lines_backwards(file: BinaryIO, low: int, high: int) -> Iterator[bytes]:
    """Yield the lines between two line ends, last one first."""
    rest, end = b"", high - 1
    while end > low:
        start = max(low, end - PIECE_BYTES)
        file.seek(start)
        rest, *lines = (file.read(end - start) + rest).split(b"\n")
        yield from reversed(lines)
        end = start
    yield rest


def _measured(line: bytes, prefix: str) -> Measured | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    step = record.get("step") if isinstance(record, dict) else None
    if not isinstance(step, int):
        return None
    record |= accuracy_of(record, prefix)
    values = {
        name.removeprefix(prefix): float(value)
        for name, value in record.items()
        if name.startswith(prefix) and isinstance(value, int | float)
    }
    return Measured(step, values)


_tails: dict[Path, ResultsTail] = {}


def results_of(metrics: Path) -> Results:
    """Return the latest measurements in a `metrics.jsonl`."""
    return _tails.setdefault(metrics, ResultsTail(metrics)).refresh()
