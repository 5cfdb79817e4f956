import pytest

from orpo_qlora import storage
from orpo_qlora.config import build_config
from orpo_qlora.data.examples import example_path
from orpo_qlora.data.pairs import load_preferences, split_pairs
from orpo_qlora.errors import UnknownRun
from orpo_qlora.runs import store
from orpo_qlora.runs.state import RunState
from orpo_qlora.ui.runs import tab as runs_tab
from orpo_qlora.ui.runs.snapshot import changed_parts, seen_token, take_snapshot


@pytest.fixture
def run():
    dataset = load_preferences(example_path("hello"))
    config = build_config({"name": "Mine", "lambda": 0.5})
    return store.create_run(config, split_pairs(dataset.pairs, 0, 1), dataset.report)


def append(path, record):
    lines = storage.JsonLines(path)
    lines.append(record)
    lines.close()


def test_fresh_page_draws_everything(run):
    parts = {"status", "around", "report", "plots", "samples", "log"}
    assert changed_parts(take_snapshot(run.id), "") == parts


def test_nothing_is_drawn_again_while_nothing_changes(run):
    seen = seen_token(take_snapshot(run.id))
    assert changed_parts(take_snapshot(run.id), seen) == set()


def test_new_step_redraws_status_and_plots_only(run):
    seen = seen_token(take_snapshot(run.id))
    append(run.metrics, {"step": 1, "loss": 2.0})
    assert changed_parts(take_snapshot(run.id), seen) == {"status", "plots"}


def test_new_answers_redraw_the_samples_only(run):
    seen = seen_token(take_snapshot(run.id))
    append(run.samples, {"step": 0, "prompt": "a", "answer": "b", "when": "start"})
    assert changed_parts(take_snapshot(run.id), seen) == {"samples"}


def test_worker_that_died_changes_the_status(run):
    seen = seen_token(take_snapshot(run.id))
    store.write_state(run, RunState(status="running"))
    now = take_snapshot(run.id)
    assert now.run.state.status == "interrupted"
    assert {"status", "around"} <= changed_parts(now, seen)


def test_snapshot_does_not_grow_afterwards(run):
    before = take_snapshot(run.id)
    append(run.metrics, {"step": 1, "loss": 2.0})
    take_snapshot(run.id)
    assert before.metrics.count == 0
    assert before.metrics.series("loss") == []


@pytest.mark.parametrize("run_id", ["../../etc", "20260101-000000-beef", ""])
def test_unknown_run_is_an_error(run_id):
    with pytest.raises(UnknownRun):
        take_snapshot(run_id)


def test_page_opens_on_what_its_address_says(run):
    assert runs_tab.opened_run({"run": run.id, "tab": "train"}) == run.id
    assert runs_tab.opened_run({"tab": "runs"}) == ""
    assert runs_tab.opened_run({"compare": run.id}) == ""
    # Nothing is at work.
    assert runs_tab.opened_run({}) == ""
    for asked in ("../../etc", "20260101-000000-beef"):
        with pytest.raises(UnknownRun):
            runs_tab.opened_run({"run": asked})


def test_page_without_an_address_opens_on_the_run_at_work(run):
    lock = storage.FileLock(run.lock)
    assert lock.acquire()
    store.write_state(run, RunState(status="running"))
    assert runs_tab.opened_run({}) == run.id
    assert runs_tab.opened_run({"tab": "runs"}) == ""
    lock.release()
