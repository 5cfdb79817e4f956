"""What must be true of a home whatever has just been killed. Used by `benchmarks.soak`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from orpo_qlora import storage
from orpo_qlora.runs import checkpoints, store
from orpo_qlora.runs.process import launch
from orpo_qlora.runs.store import RunPaths

UNEQUAL = {"seconds", "eval/seconds", "peak_memory_bytes", "eval/peak_memory_bytes"}
"""What two runs of the same steps may differ in."""
TRUTH_SECONDS = 10.0
"""How long the state of a run may be behind the death of its worker."""
AT_WORK = {"starting", "running", "stopping"}


class Broken(Exception):
    """A promise that did not hold."""


def hold(promise: str, is_kept: bool, *details: object) -> None:
    """Count on a promise.

    Raises:
        Broken: it does not hold.
    """
    if not is_kept:
        raise Broken(f"{promise}: {' '.join(map(str, details))}")


def programs(home: Path, module: str = "", folder: str = "") -> list[psutil.Process]:
    """Return the living programs of a home, also those that no one knows of."""
    marks = [f"{storage.HOME_VARIABLE}={home}".encode(), module.encode(), folder.encode()]
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            # Of a zombie both are empty.
            command = (entry / "cmdline").read_bytes().split(b"\0")
            if (module and marks[1] not in command) or (folder and marks[2] not in command):
                continue
            if marks[0] in (entry / "environ").read_bytes().split(b"\0"):
                found.append(psutil.Process(int(entry.name)))
        except (OSError, psutil.NoSuchProcess):
            continue  # it has ended this moment
    return found


def whole_lines(path: Path) -> list[bytes]:
    """Return the lines of a growing file that have their end."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    return content[: content.rfind(b"\n") + 1].splitlines(keepends=True)


def steps_of(lines: list[bytes]) -> list[int]:
    """Return the steps of the lines that are steps, not evaluations."""
    records = [json.loads(line) for line in lines]
    return [record["step"] for record in records if "loss" in record]


@dataclass
class Witness:
    """Remembers what was seen of one run and compares."""

    paths: RunPaths
    lines: list[bytes] = field(default_factory=list)
    """Of the metrics; what no death may take away."""
    checkpoint: int = 0
    """Step of the newest one seen."""
    seen: set[int] = field(default_factory=set)
    looks: int = 0
    _inode_at_death: int = 0
    _rewinding: tuple[int, list[bytes]] | None = None
    """File and lines to be kept of a resumed run whose worker has not cut the metrics yet."""

    def look(self) -> None:
        """Take in what is there while programs are alive; steps must be whole at any moment."""
        kept = self._still_to_be_cut()
        lines = whole_lines(self.paths.metrics)
        self._in_order(lines)
        self.lines = lines if kept is None else kept
        self.seen |= self._steps_of_checkpoints()

    def _still_to_be_cut(self) -> list[bytes] | None:
        if self._rewinding is None or self._inode() != self._rewinding[0]:
            self._rewinding = None
            return None
        return self._rewinding[1]

    def _inode(self) -> int:
        return self.paths.metrics.stat().st_ino if self.paths.metrics.exists() else 0

    def _steps_of_checkpoints(self) -> set[int]:
        folders = self.paths.checkpoints.glob("step-*")
        return {int(path.name.removeprefix("step-")) for path in folders}

    def _in_order(self, lines: list[bytes]) -> None:
        steps = steps_of(lines)
        expected = list(range(1, len(steps) + 1))
        hold("each step is logged once, in order", steps == expected, self.paths.id, steps)
        self.looks += 1

    def after_a_death(self) -> None:
        """Compare with the last check; no program may be writing."""
        lines = whole_lines(self.paths.metrics)
        is_kept = lines[: len(self.lines)] == self.lines
        hold("no line is lost", is_kept, self.paths.id, len(self.lines), len(lines))
        self.lines = lines
        self._in_order(lines)
        found = checkpoints.find_checkpoint(self.paths.checkpoints)
        step = found.newest.step if found.newest else 0
        there = self._steps_of_checkpoints()
        self.seen |= there
        hold("no checkpoint is half there", not found.damaged, *found.damaged)
        hold("the newest checkpoint is never lost", step >= self.checkpoint, step, self.checkpoint)
        for each in there:
            checkpoints.examine(self.paths.checkpoints / f"step-{each}")
        promised = min(checkpoints.KEPT, len(self.seen))
        hold("two checkpoints stay", len(there) >= promised, self.paths.id, there, self.seen)
        logged = len(steps_of(lines))
        hold("a checkpoint holds no step that is not logged", logged >= step, logged, step)
        self.checkpoint = step
        self._inode_at_death = self._inode()

    def after_resuming(self) -> None:
        """Compare what a resumed run goes on from with what it had."""
        step = self.checkpoint
        before = [line for line in self.lines if step and json.loads(line)["step"] <= step]
        now = whole_lines(self.paths.metrics)
        hold("steps up to the checkpoint stay as they are", now[: len(before)] == before, step)
        self._rewinding = (self._inode_at_death, before) if len(self.lines) > len(before) else None
        self.lines = before
        self.looks += 1


def wait_for_truth(paths: RunPaths) -> float:
    """Return how long the state of a run without a worker still spoke of one.

    Raises:
        Broken: too long.
    """
    start = time.monotonic()
    while store.read_run(paths).state.status in AT_WORK:
        passed = time.monotonic() - start
        hold("the status is true within seconds", passed < TRUTH_SECONDS, paths.id)
        time.sleep(0.01)
    return time.monotonic() - start


def one_at_work(home: Path) -> None:
    """Hold that no two workers train; one that has said its last word may still be ending."""
    at_work = [paths.id for paths in store.all_paths() if _trains(home, paths)]
    if len(at_work) > 1:
        time.sleep(0.5)  # the first may have ended between the two checks
        at_work = [paths.id for paths in store.all_paths() if _trains(home, paths)]
    hold("one run trains at a time", len(at_work) <= 1, *at_work)


def _trains(home: Path, paths: RunPaths) -> bool:
    has_worker = bool(programs(home, launch.WORKER, str(paths.folder)))
    return has_worker and not store.stored_state(paths).is_done


def nothing_left(home: Path, temporary: Path) -> None:
    """Hold that no process, lock or half-made file is left of a home where everything has ended."""
    left = [" ".join(process.cmdline()) for process in programs(home)]
    hold("no orphan process", not left, *left)
    locks = [*home.glob("**/lock"), *home.glob("**/*.lock")]
    held = [path for path in locks if path.is_file() and storage.is_locked(path)]
    hold("no leaked lock", not held, *held)
    hidden = [path.relative_to(home) for path in home.glob("**/.*")]
    hold("no half-made file or folder in the home", not hidden, *hidden)
    pages = sorted(path.name for path in temporary.iterdir() if path.name.startswith("orpo-qlora-"))
    hold("no folder of a page that is gone", not pages, *pages)


def same_end(paths: RunPaths, whole: RunPaths) -> None:
    """Hold that a run ended as one that nothing happened to: metrics, samples, adapter."""
    hold("the run finished", store.read_run(paths).state.status == "finished", paths.id)
    hold("metrics are those of a whole run", _records(paths) == _records(whole), paths.id)
    samples = (store.samples_of(paths), store.samples_of(whole))
    hold("sample answers are those of a whole run", samples[0] == samples[1], paths.id)
    adapters = [each.adapter / "adapter_model.safetensors" for each in (paths, whole)]
    if adapters[1].exists():
        same = adapters[0].read_bytes() == adapters[1].read_bytes()
        hold("the adapter is that of a whole run, bit for bit", same, paths.id)


def _records(paths: RunPaths) -> list[dict[str, object]]:
    records, _ = storage.read_json_lines(paths.metrics)
    kept = [{k: v for k, v in record.items() if k not in UNEQUAL} for record in records]
    # The base, step 0, is recorded with the first evaluation and stays where it was written.
    return sorted(kept, key=lambda record: int(str(record["step"])))


def lives(process: psutil.Process) -> bool:
    """Tell whether a program has not ended; what waits to be collected has."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(is_true: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for a condition.

    Raises:
        Broken: it did not come true.
    """
    deadline = time.monotonic() + seconds
    while not is_true():
        hold(what, time.monotonic() < deadline, f"not within {seconds:.0f} s")
        time.sleep(0.02)
