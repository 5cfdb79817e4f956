"""Judged on the monotonic clock: a wrong date, however wrong, changes nothing."""

import time

import pytest

from orpo_qlora import storage
from orpo_qlora.config import TrainConfig
from orpo_qlora.data.pairs import PreferencePair, Split
from orpo_qlora.data.summary import DataSummary
from orpo_qlora.runs import store
from orpo_qlora.runs.process import launch, watch
from orpo_qlora.runs.process import queue as run_queue
from orpo_qlora.runs.state import ErrorCard, RunState

REPORT = DataSummary(source="pairs.csv", sha256="ab" * 32, rows_read=3, pairs=3)
PAIRS = tuple(PreferencePair(f"q{i}", f"good {i}", f"bad {i}", i) for i in (1, 2, 3))


@pytest.fixture
def paths():
    return store.create_run(TrainConfig(), Split(PAIRS, ()), REPORT)


@pytest.fixture
def at_work(paths):
    """Say what a living worker says, some seconds ago."""
    lock = storage.FileLock(paths.lock)
    assert lock.acquire()

    def say(seconds_ago, **state):
        written = RunState(status="running", progressed_at=time.monotonic() - seconds_ago, **state)
        store.write_state(paths, written)
        return store.read_run(paths)

    yield say
    lock.release()


@pytest.mark.parametrize(
    ("seconds_ago", "state", "is_stalled"),
    [
        (800, {"phase": "training", "seconds_per_step": 2.0}, False),
        (1000, {"phase": "training", "seconds_per_step": 2.0}, True),
        (1000, {"phase": "training", "seconds_per_step": 90.0}, False),
        (3000, {"phase": "loading the base model"}, False),
        (4000, {"phase": "loading the base model"}, True),
    ],
)
def test_silence_counts_as_a_hang_once_it_is_longer_than_the_phase_takes(
    at_work, monkeypatch, seconds_ago, state, is_stalled
):
    run = at_work(seconds_ago, **state)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    card = watch.stalled(run)
    assert (card is not None) == is_stalled
    if card:
        assert state["phase"] in card.message


def test_only_a_living_worker_hangs(paths):
    store.write_state(paths, RunState(status="running", progressed_at=time.monotonic() - 9999))
    assert watch.stalled(store.read_run(paths)) is None


def test_a_stop_can_be_forced_after_the_grace_time(paths, at_work):
    at_work(0)
    assert not watch.can_be_forced(store.read_run(paths))
    run_queue.ask_to_stop(paths)
    assert not watch.can_be_forced(store.read_run(paths))
    paths.stop.write_text(str(time.monotonic() - launch.GRACE_SECONDS))
    assert watch.can_be_forced(store.read_run(paths))
    run_queue.ask_to_stop(paths)  # asking again does not begin the grace time again
    assert watch.can_be_forced(store.read_run(paths))


@pytest.mark.parametrize(
    ("seconds_ago", "error", "expected"),
    [
        (1, None, True),
        (60, None, False),
        (-60, None, False),  # the machine was restarted since
        (1, ErrorCard(slug="worker-lost", message="SIGKILL"), False),
    ],
)
def test_a_cause_is_awaited_for_a_short_while(paths, seconds_ago, error, expected):
    at = time.monotonic() - seconds_ago
    store.write_state(paths, RunState(status="running", progressed_at=at, error=error))
    assert watch.awaits_cause(store.read_run(paths)) == expected
