import signal

import pytest

from orpo_qlora import storage
from orpo_qlora.config import TrainConfig
from orpo_qlora.data.pairs import PreferencePair, Split
from orpo_qlora.data.summary import DataSummary
from orpo_qlora.runs import store
from orpo_qlora.runs.process import queue as run_queue
from orpo_qlora.runs.process.ending import record_end
from orpo_qlora.runs.state import RunState

REPORT = DataSummary(source="pairs.csv", sha256="ab" * 32, rows_read=3, pairs=3)
PAIRS = tuple(PreferencePair(f"q{i}", f"good {i}", f"bad {i}", i) for i in (1, 2, 3))
AT_WORK = RunState(status="running", phase="training", step=3, total_steps=9)


@pytest.fixture
def paths():
    made = store.create_run(TrainConfig(), Split(PAIRS, ()), REPORT)
    store.write_state(made, AT_WORK)
    return made


@pytest.mark.parametrize(
    ("exit_code", "asked", "status", "words"),
    [
        (-signal.SIGKILL, False, "interrupted", "SIGKILL while training. Something ended it"),
        (-signal.SIGBUS, False, "interrupted", "SIGBUS while training. Memory behind a file"),
        (-signal.SIGKILL, True, "stopped", "Ended by force"),
        (-signal.SIGTERM, False, "stopped", "Ended by force"),
        (1, False, "failed", "ended with code 1 while training"),
    ],
)
def test_an_end_without_a_word_is_put_into_words(paths, exit_code, asked, status, words):
    if asked:
        run_queue.ask_to_stop(paths)
    record_end(paths, exit_code)
    state = store.read_run(paths).state
    assert state.status == status
    card = f"{state.error.message} {state.error.hint}" if state.error else " ".join(state.notes)
    assert words in card
    assert state.step == 3


def test_a_stop_before_the_first_step_says_so(paths):
    store.write_state(paths, AT_WORK.model_copy(update={"step": 0, "phase": "tokenizing"}))
    record_end(paths, -signal.SIGTERM)
    state = store.read_run(paths).state
    assert (state.status, state.notes) == ("stopped", ("Stopped before the first step.",))


def test_the_workers_own_status_is_kept(paths):
    last = AT_WORK.moved_to("finished")
    store.write_state(paths, last)
    record_end(paths, 1)
    assert store.stored_state(paths) == last


def test_a_run_that_waits_again_or_has_another_worker_is_left_alone(paths):
    with storage.FileLock(paths.lock):
        record_end(paths, 1)
    assert store.stored_state(paths) == AT_WORK
    store.write_state(paths, RunState())
    record_end(paths, 1)
    assert store.stored_state(paths) == RunState()


def test_a_folder_that_is_gone_is_no_trouble(paths):
    import shutil

    shutil.rmtree(paths.folder)
    record_end(paths, -signal.SIGKILL)
