import builtins
import io
import os
import re
from pathlib import Path

import pytest
from made_runs import let_settle, make_run, rename

from orpo_qlora import storage
from orpo_qlora.runs import history, labels, store
from orpo_qlora.runs.file_cache import FileMemory
from orpo_qlora.runs.history import Filters, matching, read_history
from orpo_qlora.runs.labels import label_of


@pytest.fixture
def three():
    made = [
        make_run(name="first", model="org/one", accuracy=0.9, tags=("night",), age_seconds=300),
        make_run(name="second", model="org/two", accuracy=0.5, age_seconds=200, **{"lambda": 0.5}),
        make_run(name="third <b>", model="org/two", status="failed", age_seconds=100),
    ]
    # Made within one second: ids would be in a random order.
    for place, paths in enumerate(made):
        folder = paths.folder.with_name(f"2026112{place}-100000-000{place}")
        paths.folder.rename(folder)
    return read_history()


def titles(runs):
    return [run.title for run in runs]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (Filters(), ["third <b>", "second", "first"]),
        (Filters(order="oldest"), ["first", "second", "third <b>"]),
        (Filters(order="name"), ["first", "second", "third <b>"]),
        (Filters(order="accuracy"), ["first", "second", "third <b>"]),
        (Filters(text="SECOND"), ["second"]),
        (Filters(text="org/two λ=0.5"), ["second"]),
        (Filters(text="night"), ["first"]),
        (Filters(text="pairs.csv two"), ["third <b>", "second"]),
        (Filters(status="failed"), ["third <b>"]),
        (Filters(model="org/two"), ["third <b>", "second"]),
        (Filters(tag="night"), ["first"]),
        (Filters(tag="nigh"), []),
        (Filters(model="org/one", status="failed"), []),
    ],
)
def test_runs_are_found_by_what_they_are(three, filters, found):
    assert titles(matching(three.runs, filters)) == found


def test_lists_to_choose_from_come_from_the_runs(three):
    assert three.models == ["org/one", "org/two"]
    assert three.tags == ["night"]


def test_a_run_that_cannot_be_read_does_not_hide_the_others(three):
    broken = three.runs[0].paths
    broken.config.write_text(broken.config.read_text() + "colour: blue\n")
    found = read_history()
    assert titles(found.runs) == ["second", "first"]
    assert [one.id for one in found.unreadable] == [broken.id]
    assert "colour" in found.unreadable[0].reason
    assert titles(store.list_runs()) == ["second", "first"]


def test_a_run_of_a_newer_version_is_reported_and_left_unchanged(three):
    newer = three.runs[0].paths
    text = newer.config.read_text()
    newer.config.write_text(re.sub(r"schema: \d+", "schema: 999", text))
    before = sorted(path.stat().st_mtime_ns for path in newer.folder.iterdir())
    found = read_history()
    assert [one.id for one in found.unreadable] == [newer.id]
    assert "newer version" in found.unreadable[0].reason
    assert sorted(path.stat().st_mtime_ns for path in newer.folder.iterdir()) == before


@pytest.mark.parametrize(
    "damaged", [b"", b"model: [", b"lambda: 1", b"run: 3", b"run: {schema: x}", b"\xff\xfe\x00"]
)
def test_damaged_settings_are_reported_and_hide_no_other_run(three, damaged):
    broken = three.runs[0].paths
    broken.config.write_bytes(damaged)
    found = read_history()
    assert titles(found.runs) == ["second", "first"]
    assert [one.id for one in found.unreadable] == [broken.id]
    assert "config.yaml is damaged" in found.unreadable[0].reason
    assert titles(store.list_runs()) == ["second", "first"]


def test_a_damaged_state_is_reported_too(three):
    paths = three.runs[1].paths
    paths.state.write_text("{")
    assert [one.id for one in read_history().unreadable] == [paths.id]
    assert store.active_run() is None


def test_a_run_deleted_while_the_list_is_read_is_left_out(three, monkeypatch):
    gone = three.runs[1].paths
    listed = store.all_paths()
    gone.state.unlink()
    gone.config.unlink()
    for path in sorted(gone.folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    gone.folder.rmdir()
    monkeypatch.setattr(store, "all_paths", lambda: listed)
    found = read_history()
    assert titles(found.runs) == ["third <b>", "first"]
    assert found.unreadable == ()


def test_unchanged_run_folders_are_not_read_again(three, monkeypatch):
    for run in three.runs:
        rename(run.paths, "")
        let_settle(run.paths)
    for run in read_history().runs:
        history.results(run)
    opened = []

    def watched(real):
        def open_(file, *arguments, **named):
            opened.append(Path(file).name if isinstance(file, str | os.PathLike) else file)
            return real(file, *arguments, **named)

        return open_

    monkeypatch.setattr(builtins, "open", watched(builtins.open))
    monkeypatch.setattr(io, "open", watched(io.open))
    again = read_history()
    assert titles(matching(again.runs, Filters(order="accuracy"))) == [
        "first",
        "second",
        "third <b>",
    ]
    assert store.active_run() is None
    assert opened == []
    rename(again.runs[0].paths, "fourth")
    assert titles(read_history().runs)[0] == "fourth"
    # Written this moment, so it may be written again within the same tick of the clock.
    assert opened.count("label.json") >= 1


def test_a_file_replaced_within_a_tick_of_the_clock_is_read_again(tmp_path):
    path = tmp_path / "state.json"
    memory = FileMemory(lambda file: file.read_text())
    path.write_text("a")
    stamp = path.stat()
    assert memory.of(path) == "a"
    path.write_text("b")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert memory.of(path) == "b"


def test_a_new_name_and_tags_stay_beside_the_settings(own_home):
    paths = make_run(name="as ordered")
    before = paths.config.read_bytes()
    rename(paths, "  as  it\nis now ", "λ, night ,Night,, a  b")
    run = store.read_run(paths)
    assert run.title == run.name == "as it is now"
    assert run.label.tags == ("λ", "night", "a b")
    assert run.config.name == "as ordered"
    assert paths.config.read_bytes() == before
    assert store.find_run("as it is now").id == store.find_run("as ordered").id == run.id
    rename(paths, "")
    assert store.read_run(paths).title == "as ordered"


@pytest.mark.parametrize(
    ("name", "tags", "words"),
    [("x" * 81, "", "81"), ("", "y" * 41, "40 characters"), ("", ",".join("abcdefghijklm"), "12")],
)
def test_a_label_that_is_too_long_is_refused(name, tags, words):
    with pytest.raises(storage.InputError, match=words):
        label_of(name, tags)


def test_a_damaged_label_is_an_empty_one():
    paths = make_run(name="mine")
    paths.label.write_text("{")
    assert store.read_run(paths).title == "mine"
    assert labels.read_label(paths.label) == labels.NO_LABEL


@pytest.mark.parametrize(
    ("model", "shown"),
    [("HuggingFaceTB/SmolLM2-135M-Instruct", "SmolLM2 135M"), ("o/my-model", "my-model")],
)
def test_a_run_without_a_name_is_called_by_data_model_and_lambda(model, shown):
    run = store.read_run(make_run(model=model, **{"lambda": 0.25}))
    assert run.name == ""
    assert run.title == f"pairs · {shown} · λ 0.25"
