"""Start, queue, stop and resume runs. Floor 3; no torch.

One run trains at a time. Any process may start the next one of the queue (`start_next`): the
supervisor of the run that ended, a page, a terminal; one lock serialises them.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil

from orpo_qlora import storage
from orpo_qlora.config import TrainConfig
from orpo_qlora.data.pairs import PreferenceData, Split, split_pairs
from orpo_qlora.data.summary import DataSummary
from orpo_qlora.errors import InputError, WorkerLost
from orpo_qlora.models.templates import chat_templates
from orpo_qlora.program import start_program
from orpo_qlora.runs import checkpoints, store, trackers
from orpo_qlora.runs.differences import order_key, text_of, value_of
from orpo_qlora.runs.identity import identity_of
from orpo_qlora.runs.labels import NO_LABEL, RunLabel
from orpo_qlora.runs.process import preflight
from orpo_qlora.runs.process import queue as run_queue
from orpo_qlora.runs.process.data_for_method import check_data
from orpo_qlora.runs.process.ending import record_end
from orpo_qlora.runs.process.shared.process_count import process_count
from orpo_qlora.runs.process.start import copy_start, with_start
from orpo_qlora.runs.store import Run, RunPaths

WORKER = "orpo_qlora.runs.process.worker"
TORCHRUN = "orpo_qlora.runs.process.shared.torchrun"
RANK = "orpo_qlora.runs.process.shared.rank"
"""Started by torchrun in place of the worker where several processes share a run."""
PROGRAMS_OF_RUN = {WORKER, TORCHRUN, RANK}
SUPERVISOR = "orpo_qlora.runs.process.supervisor"
GRACE_SECONDS = 30.0
"""How long a worker may take to write its checkpoint before a stop can be forced."""
LOCK_SECONDS = 5.0
FORCE_SECONDS = 20.0
"""How long kills are repeated: the supervisor may be about to start the worker."""
POLL_SECONDS = 0.2
RECORD_SECONDS = 0.5
"""How long the supervisor of a dead worker may hold the run's lock to write down how it ended."""


def start_run(config: TrainConfig, dataset: PreferenceData, ticket: str = "") -> RunPaths:
    """Create a run from settings and data and queue it; it starts at once if no run is active.

    Args:
        config: every setting.
        dataset: the pairs.
        ticket: idempotency key: the same ticket twice makes one run.

    Raises:
        InputError: the home folder or the chat template is not usable, the tracker is not
            installed, a setting contradicts the adapter to start from, or the method cannot train
            on the data.
        ModelError: that adapter cannot be trained further.
        DiskFull: nothing was started.
    """
    # Two clicks, two pages or a page and a terminal: check and creation are one step.
    with launching():
        known = run_queue.run_of_ticket(ticket)
        if known is not None:
            return known
        split = split_pairs(dataset.pairs, config.held_out, config.seed)
        return _queue_new([_complete(config)], split, dataset.report, ticket=ticket)[0]


def create_stopped(config: TrainConfig, dataset: PreferenceData) -> RunPaths:
    """Create a run that a launcher outside this program starts (docs/scale.md).

    Raises what `start_run` does.
    """
    with launching():
        split = split_pairs(dataset.pairs, config.held_out, config.seed)
        return _queue_new([_complete(config)], split, dataset.report, starts=False)[0]


def queue_group(
    configs: Sequence[TrainConfig], split: Split, report: DataSummary, label: RunLabel
) -> list[Run]:
    """Queue runs that differ only in the settings `label.varied`; return every run of the group.

    Runs whose values of these settings the group already has are not queued again, so the call is
    idempotent.

    Args:
        configs: one for each run.
        split: the pairs of all.
        report: the data summary of their file.
        label: the group's tag and the settings that it varies.

    Raises:
        InputError: what `start_run` raises, or two of the runs would be the same.
        ModelError: the adapter to start from cannot be trained further.
        DiskFull: runs created before the error stay queued.
    """
    with launching():
        there = [run for run in store.list_runs() if set(label.tags) <= set(run.label.tags)]
        known = [_values(run.config, label.varied) for run in there]
        # Compared as they are recorded: a run's id for its name, a template's text for its file.
        complete = [_complete(config) for config in configs]
        _refuse_same(complete, label.varied)
        missing = [one for one in complete if _values(one, label.varied) not in known]
        made = _queue_new(missing, split, report, label=label) if missing else []
    runs = [*there, *map(store.read_run, made)]
    return sorted(runs, key=lambda run: order_key(run.config, label.varied))


def _values(config: TrainConfig, names: Sequence[str]) -> list[object]:
    return [value_of(config, name) for name in names]


def _refuse_same(configs: Sequence[TrainConfig], names: Sequence[str]) -> None:
    """Refuse runs of a group whose settings are the same once they are complete."""
    seen: list[list[object]] = []
    for config in configs:
        if _values(config, names) in seen:
            why = " The adapter they start from decides." if config.start_from else ""
            raise InputError(
                f"Two runs would both have {text_of(config, names)}.{why}",
                hint="Vary another setting, or give values that differ.",
            )
        seen.append(_values(config, names))


def _complete(config: TrainConfig) -> TrainConfig:
    """Return the settings as a run records them; raises what `start_run` does for settings."""
    return _with_absolute_model(chat_templates.recorded(with_start(config)))


def _queue_new(
    configs: Sequence[TrainConfig],
    split: Split,
    report: DataSummary,
    *,
    ticket: str = "",
    label: RunLabel = NO_LABEL,
    starts: bool = True,
) -> list[RunPaths]:
    for tracker in {config.report_to for config in configs}:
        trackers.check_installed(tracker)
    for config in configs:
        if starts:
            process_count(config)  # raises for more than there are GPUs
        check_data(config, report, split.train)
    preflight.check_home()
    store.sweep_drafts()
    place = _last_place()
    stopped = "" if starts else "Created without a start."
    made = []
    try:
        for at, config in enumerate(configs):
            paths = store.create_run(
                *(config, split, report),
                place=place + at,
                ticket=ticket,
                label=label,
                stopped=stopped,
            )
            made.append(paths)
            _copy_start(made[-1], config)
        return made
    finally:
        if starts:
            _start_next()


def _copy_start(paths: RunPaths, config: TrainConfig) -> None:
    try:
        copy_start(paths, config)
    except BaseException:
        store.remove_folder(store.set_aside(paths))
        raise


def _with_absolute_model(config: TrainConfig) -> TrainConfig:
    """Return the settings with a local model folder made absolute: the worker runs elsewhere."""
    folder = Path(config.model).expanduser()
    return (
        config.model_copy(update={"model": str(folder.absolute())}) if folder.is_dir() else config
    )


def resume_run(paths: RunPaths, *, from_start: bool = False, processes: int | None = None) -> int:
    """Queue a run that ended early, to resume from its newest good checkpoint; return its step.

    Without a checkpoint the run starts over, in the same folder.

    Args:
        paths: the run.
        from_start: discard its checkpoints.
        processes: that share it from now on, 0 for all visible GPUs; None for as many as set.

    Raises:
        InputError: the run is active, queued or finished.
        CheckpointError: every checkpoint is damaged, or settings or pairs have changed.
    """
    with launching():
        run = _settled(paths)
        if not run.is_resumable:
            raise InputError(f"Run “{run.title}” is {run.state.status}, so it cannot be resumed.")
        preflight.check_home()
        if processes is not None:
            run = replace(run, config=run.config.model_copy(update={"processes": processes}))
        process_count(run.config)  # raises where this machine has fewer GPUs
        if from_start:
            checkpoints.discard_all(paths.checkpoints)
        found = checkpoints.find_checkpoint(paths.checkpoints)
        checkpoints.refuse_foreign(found, identity_of(run.config, paths.train.parent))
        if processes is not None:
            store.set_processes(paths, processes)
        step = found.newest.step if found.newest else 0
        _queue_again(run, step)
        _start_next()
    return step


def _settled(paths: RunPaths) -> Run:
    """Return the run once the supervisor of a worker that died has written why."""
    run = store.read_run(paths)
    if run.is_at_work:
        lock = storage.FileLock(paths.lock)
        if lock.acquire(RECORD_SECONDS):
            lock.release()
            return store.read_run(paths)
    return run


def _queue_again(run: Run, step: int) -> None:
    # Held while the state is replaced: the supervisor of the dead worker may be writing its cause.
    lock = storage.FileLock(run.paths.lock)
    if not lock.acquire(LOCK_SECONDS):
        raise InputError(f"Run “{run.title}” is at work again.")
    try:
        fresh: dict[str, object] = {
            **{"phase": "", "error": None, "ended_at": 0.0, "step": step, "place": _last_place()},
            "notes": store.stored_state(run.paths).notes,
            "memory_failures": run.state.memory_failures + run.state.ran_out_of_memory,
        }
        run.paths.stop.unlink(missing_ok=True)
        store.write_state(run.paths, run.state.moved_to("queued").model_copy(update=fresh))
    finally:
        lock.release()


def start_next() -> None:
    """Start the next queued run unless one is active; safe to call at any time."""
    with launching():
        _start_next()


def launching() -> storage.FileLock:
    """Return the lock that serialises queue changes and worker starts."""
    return storage.FileLock(storage.home() / "launch.lock")


def _last_place() -> int:
    return max((run.state.place for run in run_queue.queued_runs()), default=0) + 1


def _start_next() -> None:
    if store.active_run() is not None:
        return
    for run in run_queue.queued_runs()[:1]:
        lock = storage.FileLock(run.paths.lock)
        if not lock.acquire(LOCK_SECONDS):
            return  # another process is just starting it
        try:
            for path in (run.paths.state, run.paths.metrics, run.paths.samples):
                storage.sweep_temporaries(path)
            state = run.state.moved_to("starting")
            store.write_state(run.paths, state.model_copy(update={"progressed_at": _now()}))
            arguments = [str(run.paths.folder), str(lock.fileno())]
            log, home = run.paths.log, storage.home()
            start_program(SUPERVISOR, arguments, log, shares=lock.fileno(), works_in=home)
        finally:
            lock.release()  # the supervisor's copy holds it from now on


def _now() -> float:
    return time.monotonic()


def move_run(paths: RunPaths, to: int) -> None:
    """Move a queued run to a position in the queue; 1 is next.

    Raises:
        InputError: it is not in the queue.
    """
    with launching():
        _rearrange(paths, lambda _: to - 1)


def shift_run(paths: RunPaths, by: int) -> None:
    """Move a queued run towards the end of the queue, or its front if `by` is negative.

    Raises:
        InputError: it is not in the queue.
    """
    with launching():
        _rearrange(paths, lambda at: at + by)


def _rearrange(paths: RunPaths, where: Callable[[int], int]) -> None:
    line = run_queue.queued_runs()
    ids = [run.id for run in line]
    if paths.id not in ids:
        raise InputError(f"Run {paths.id} does not wait in the queue.")
    at = ids.index(paths.id)
    line.insert(max(0, where(at)), line.pop(at))
    for place, run in enumerate(line, start=1):
        if run.state.place != place:
            state = run.state.model_copy(update={"place": place})
            store.write_state(run.paths, state)


def stop_run(paths: RunPaths) -> None:
    """Ask the worker to end after its current step with a checkpoint; returns at once.

    A queued run leaves the queue.
    """
    with launching():
        run = store.read_run(paths)
        if run.state.status == "queued":
            note = "Taken out of the queue."
            end = {"ended_at": time.time(), "notes": (*run.state.notes, note)}
            store.write_state(paths, run.state.moved_to("stopped").model_copy(update=end))
        elif run.is_at_work:
            run_queue.ask_to_stop(paths)


def end_run(paths: RunPaths, grace_seconds: float = GRACE_SECONDS) -> Run:
    """Ask the worker to end, wait, and end it by force when the time is up; return the run.

    Raises:
        WorkerLost: the worker survived `FORCE_SECONDS` of kills.
    """
    stop_run(paths)
    with suppress(WorkerLost):
        return wait_for(paths, grace_seconds)
    deadline = time.monotonic() + FORCE_SECONDS
    while True:
        _kill(paths)
        try:
            wait_for(paths, POLL_SECONDS)
        except WorkerLost:
            if time.monotonic() >= deadline:
                raise
        else:
            break
    record_end(paths, -signal.SIGKILL)  # the supervisor may be gone too
    return store.read_run(paths)


def _kill(paths: RunPaths) -> None:
    """Kill the worker and its children.

    It is found by its command line: a stored process id might belong to another program now.
    """
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if PROGRAMS_OF_RUN.intersection(command) and str(paths.folder) in command:
            with suppress(ProcessLookupError):  # it has ended this moment
                os.killpg(process.pid, signal.SIGKILL)


def wait_for(paths: RunPaths, timeout_seconds: float) -> Run:
    """Return the run once it has ended.

    Raises:
        WorkerLost: it is still active after `timeout_seconds`.
    """
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        run = store.read_run(paths)
        if not run.is_active:
            return run
        time.sleep(POLL_SECONDS)
    raise WorkerLost(f"Run {paths.id} did not end within {timeout_seconds:.0f} s.")
