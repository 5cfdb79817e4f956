import json
import os
from contextlib import ExitStack

import pytest
from holder import held

from orpo_qlora import storage
from orpo_qlora.config import TrainConfig, build_config
from orpo_qlora.data.pairs import PreferencePair, Split
from orpo_qlora.data.summary import DataSummary
from orpo_qlora.errors import ConfigError, UnknownRun
from orpo_qlora.runs import store
from orpo_qlora.runs.curves import metrics
from orpo_qlora.runs.curves.metrics import MetricsTail
from orpo_qlora.runs.labels import RunLabel, write_label
from orpo_qlora.runs.process import queue as run_queue
from orpo_qlora.runs.state import RunState

REPORT = DataSummary(source="pairs.csv", sha256="ab" * 32, rows_read=3, pairs=3)
PAIRS = tuple(PreferencePair(f"q{i}", f"good {i}", f"bad {i}", i) for i in (1, 2, 3))


@pytest.fixture
def paths():
    config = TrainConfig(name="mine", lambda_=0.25)
    return store.create_run(config, Split(PAIRS[:2], PAIRS[2:]), REPORT)


@pytest.fixture
def hold_lock():
    """Start a process that holds a lock as a worker does."""
    with ExitStack() as until_the_end:
        yield lambda path: until_the_end.enter_context(held(path))


def test_a_new_run_holds_settings_data_and_account(paths):
    run = store.read_run(paths)
    assert run.config.lambda_ == 0.25
    assert run.report == REPORT
    assert run.state.status == "queued"
    assert [pair.prompt for pair in store.training_pairs(paths)] == ["q1", "q2"]
    assert [pair.row for pair in store.held_out_pairs(paths)] == [3]
    about = store.about_run(paths)
    assert about["dataset_sha256"] == REPORT.sha256
    assert set(about["versions"]) >= {"torch", "transformers", "peft"}
    assert "lambda: 0.25" in paths.config.read_text()


def test_runs_are_listed_newest_first_and_found_by_name_or_id(paths, monkeypatch):
    monkeypatch.setattr(store.time, "strftime", lambda _: "29990101-000000")
    newer = store.create_run(TrainConfig(), Split(PAIRS, ()), REPORT)
    assert [run.id for run in store.list_runs()] == [newer.id, paths.id]
    assert store.find_run("mine").id == paths.id
    assert store.find_run(newer.id).id == newer.id
    assert store.find_run("last").id == newer.id
    for name in ("yours", ""):
        with pytest.raises(UnknownRun, match=f"no run “{name}”"):
            store.find_run(name)


def test_a_name_belongs_to_the_run_that_has_it_now(paths, monkeypatch):
    monkeypatch.setattr(store.time, "strftime", lambda _: "29990101-000000")
    newer = store.create_run(TrainConfig(name="mine"), Split(PAIRS, ()), REPORT)
    write_label(newer.label, RunLabel(name="another"))
    assert store.find_run("mine").id == paths.id
    assert store.find_run("another").id == newer.id
    write_label(paths.label, RunLabel(name="also another"))
    assert store.find_run("mine").id == newer.id, "as it was called at first, if none is now"


def test_two_runs_of_one_second_never_have_one_id(paths, monkeypatch):
    second, taken = paths.id.rsplit("-", 1)
    chance = iter([taken, taken, "0000" if taken != "0000" else "1111"])
    monkeypatch.setattr(store.time, "strftime", lambda _: second)
    monkeypatch.setattr(store.secrets, "token_hex", lambda _: next(chance))
    made = store.create_run(TrainConfig(), Split(PAIRS, ()), REPORT)
    assert made.id != paths.id
    assert {run.id for run in store.list_runs()} == {made.id, paths.id}


@pytest.mark.parametrize("name", ["../../etc", "..", "20260101-000000-zzzz", ""])
def test_only_a_run_id_names_a_folder(name):
    with pytest.raises(UnknownRun):
        store.paths_of(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x" * 80,
        "Ünïcødé 研究 🧪",
        "../../etc",
        "/",
        ".draft-x",
        "line\nbreak",
        "yes",
        '\'{"a": #',
    ],
)
def test_a_name_is_a_label_whatever_it_is(name):
    made = [
        store.create_run(build_config({"name": name}), Split(PAIRS, ()), REPORT) for _ in range(2)
    ]
    assert {paths.folder.parent for paths in made} == {store.runs_folder()}
    assert all(store.RUN_ID.match(paths.folder.name) for paths in made)
    runs = store.list_runs()
    assert {run.id for run in runs} == {paths.id for paths in made}
    assert {run.title for run in runs} == {name or "pairs · SmolLM2 135M · λ 0.1"}


def test_a_name_that_is_too_long_makes_no_run():
    with pytest.raises(ConfigError, match="name"):
        build_config({"name": "x" * 81})


def test_a_run_whose_worker_died_is_interrupted_not_running(paths, hold_lock):
    holder = hold_lock(paths.lock)
    store.write_state(paths, RunState(status="running", step=3, total_steps=9))
    assert store.read_run(paths).state.status == "running"
    holder.kill()
    holder.wait()
    state = store.read_run(paths).state
    assert state.status == "interrupted"
    assert state.step == 3


def test_a_stop_request_shows_at_once(paths, hold_lock):
    hold_lock(paths.lock)
    store.write_state(paths, RunState(status="running"))
    paths.stop.touch()
    assert store.read_run(paths).state.status == "stopping"


def test_the_last_status_is_kept_after_the_worker_has_ended(paths):
    store.write_state(paths, RunState(status="finished"))
    paths.stop.touch()
    assert store.read_run(paths).state.status == "finished"


def test_a_run_without_a_worker_waits_and_one_that_is_being_started_does_not(paths, hold_lock):
    assert store.read_run(paths).state.status == "queued"
    holder = hold_lock(paths.lock)
    assert store.read_run(paths).state.status == "starting"
    store.write_state(paths, RunState(status="starting"))
    holder.kill()
    holder.wait()
    assert store.read_run(paths).state.status == "interrupted"


def test_the_queue_is_in_order_of_place_and_holds_only_waiting_runs(hold_lock):
    made = [
        store.create_run(TrainConfig(name=name), Split(PAIRS, ()), REPORT, place=place)
        for name, place in (("late", 9), ("first", 1), ("second", 2), ("at work", 0))
    ]
    hold_lock(made[3].lock)
    assert [run.title for run in run_queue.queued_runs()] == ["first", "second", "late"]
    assert store.active_run().title == "at work"


def test_an_order_is_known_by_its_ticket(paths):
    ordered = store.create_run(TrainConfig(), Split(PAIRS, ()), REPORT, ticket="t1")
    assert run_queue.run_of_ticket("t1") == ordered
    assert run_queue.run_of_ticket("t2") is None
    assert run_queue.run_of_ticket("") is None


def test_metrics_of_a_resumed_run_are_read_from_the_beginning(paths):
    lines = storage.JsonLines(paths.metrics)
    for step in (1, 2, 3):
        lines.append({"step": step, "loss": 4.0 - step})
    tail = MetricsTail(paths.metrics)
    tail.refresh()
    metrics.rewind(paths.metrics, lambda record: metrics.is_of_step(record, 1))
    tail.refresh()
    assert tail.series("loss") == [(1, 3.0)]
    again = storage.JsonLines(paths.metrics)
    again.append({"step": 2, "loss": 2.0})
    tail.refresh()
    assert tail.series("loss") == [(1, 3.0), (2, 2.0)]


def test_a_line_cut_short_is_dropped_before_the_next_one(paths):
    paths.metrics.write_text('{"step": 1}\n{"step": 2, "lo')
    lines = storage.JsonLines(paths.metrics)
    lines.append({"step": 2})
    assert paths.metrics.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_disk_that_takes_half_a_line_keeps_none_of_it(paths, monkeypatch):
    lines = storage.JsonLines(paths.metrics)
    lines.append({"step": 1})
    write = os.write
    monkeypatch.setattr(storage.os, "write", lambda fd, data: write(fd, data[:5]))
    with pytest.raises(storage.DiskFull):
        lines.append({"step": 2})
    assert paths.metrics.read_text() == '{"step": 1}\n'


def test_metrics_are_read_as_they_grow_without_half_lines(paths):
    with paths.metrics.open("w") as file:
        file.write('{"step": 1, "loss": 3.0}\n{"step": 2, "lo')
    assert store.metrics_of(paths).series("loss") == [(1, 3.0)]
    with paths.metrics.open("a") as file:
        file.write('ss": 2.5}\nnot json\n{"step": 2, "eval/loss": 2.75}\n')
    tail = store.metrics_of(paths)
    assert tail.series("loss") == [(1, 3.0), (2, 2.5)]
    assert tail.series("loss", held_out=True) == [(2, 2.75)]


def test_log_tail_shows_the_last_state_of_progress_bars(paths):
    paths.log.write_text("one\nloading 1%\rloading 50%\rloading 100%\nthree\n")
    assert store.log_tail(paths, lines=3) == "loading 100%\nthree\n"


def test_the_end_of_a_very_long_log_is_read_alone(paths):
    with paths.log.open("wb") as file:
        file.truncate(20 * 2**30)  # takes no room on the disk
        file.seek(0, os.SEEK_END)
        file.write(b"\nlast words\n")
    assert "last words" in store.log_tail(paths, lines=2)


def test_a_full_folder_leaves_no_half_made_run(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "write_pairs", full)
    with pytest.raises(storage.DiskFull, match="disk is full"):
        store.create_run(TrainConfig(), Split(PAIRS, ()), REPORT)
    assert store.list_runs() == []


def test_state_is_replaced_whole_and_private(paths):
    store.write_state(paths, RunState(status="failed"))
    assert json.loads(paths.state.read_text())["status"] == "failed"
    assert [p.name for p in paths.folder.iterdir() if p.name.startswith(".")] == []
    assert store.runs_folder().stat().st_mode & 0o077 == 0


def test_illegal_changes_of_state_are_our_fault():
    with pytest.raises(ValueError, match="finished to running"):
        RunState(status="finished").moved_to("running")


def test_files_are_sorted_by_age_without_those_just_removed(tmp_path):
    names = ("b", "a", "gone", "c")
    for age, name in enumerate(names):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (age, age))
    listed = sorted(tmp_path.iterdir())
    (tmp_path / "gone").unlink()
    assert [path.name for path in storage.oldest_first(listed)] == ["b", "a", "c"]
