"""What follows from what on the served page, over the requests its script would send."""

from collections import Counter

import pytest
from made_runs import make_run, rename
from serving import serving
from visitor import Visitor

from orpo_qlora import storage
from orpo_qlora.runs.process import deletion as deletion_of_runs
from orpo_qlora.ui.history import sweep_panel


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    home = tmp_path_factory.mktemp("wiring") / "home"
    home.mkdir(mode=0o700)
    with serving(home) as page:
        yield page


@pytest.fixture
def tab(served, own_home, monkeypatch):
    """A tab of the page, as it is when it has been opened; runs are made in the page's home."""
    monkeypatch.setenv(storage.HOME_VARIABLE, str(served.home))
    visitor = Visitor(served.address)
    visitor.put("address", "{}")
    visitor.fire("tab-runs", "select")
    yield visitor
    visitor.close()


def test_a_page_without_an_address_still_opens(served, tab):
    paths = make_run(name="mine")
    visitor = Visitor(served.address)
    visitor.put("address", None)
    visitor.load()
    visitor.change("run-picker", paths.id)
    assert visitor.value("runs-error") == ""
    assert visitor.prop("run-view", "visible") is True
    visitor.close()


def test_a_run_that_was_deleted_elsewhere_leads_back_to_the_list(tab):
    gone, other = make_run(name="gone"), make_run(name="other")
    deletion_of_runs.delete_run(gone)
    tab.change("run-picker", gone.id)
    assert tab.value("run-picker") == ""
    assert tab.prop("history", "visible") is True
    assert gone.id not in tab.value("history-table")
    assert other.id in tab.value("history-table")
    assert f"There is no run “{gone.id}”" in tab.value("runs-error")
    tab.change("run-picker", other.id)
    assert tab.value("runs-error") == ""
    assert tab.prop("history", "visible") is False
    assert tab.prop("run-view", "visible") is True


def test_a_run_that_was_deleted_elsewhere_leads_back_to_the_comparison(tab):
    gone, *others = (make_run(name=name, accuracy=0.5) for name in ("gone", "one", "two"))
    deletion_of_runs.delete_run(gone)
    tab.change("compare-ids", ",".join(paths.id for paths in (gone, *others)))
    tab.change("run-picker", gone.id)
    assert tab.prop("compare", "visible") is True
    assert tab.value("compare-head").count("<li>") == 2
    assert "There is no run" in tab.value("runs-error")


def test_a_new_name_leaves_how_the_run_is_seen(tab):
    paths = make_run(name="mine", accuracy=0.5)
    tab.change("run-picker", paths.id)
    assert 'data-low="0"' in tab.value("plot-loss")
    tab.put("chart-log", True)
    tab.change("chart-steps", "2-8")
    for name in ("yours", "ours"):
        tab.put("run-name", name)
        tab.fire("run-label-save", "click")
        assert name in tab.value("run-status")
        assert 'data-low="2"' in tab.value("plot-loss")
        assert "logarithmic" in tab.value("plot-loss")


def test_a_question_about_one_run_is_not_asked_on_the_page_of_another(tab):
    first, second = make_run(name="first"), make_run(name="second")
    tab.change("run-picker", first.id)
    tab.fire("run-delete", "click")
    assert tab.value("run-delete-ids") == first.id
    assert tab.prop("run-delete-panel", "visible") is True
    tab.change("run-picker", second.id)
    assert tab.value("run-delete-ids") == ""
    assert tab.prop("run-delete-panel", "visible") is False
    tab.fire("run-delete-confirm", "click")
    assert first.folder.is_dir()


def test_what_went_wrong_stays_while_the_list_changes(tab):
    made = [make_run(name=f"run {number}") for number in range(13)]
    tab.change("history-chosen", ",".join(paths.id for paths in made))
    tab.fire("history-compare", "click")
    assert "A comparison has 2 to 12 runs" in tab.value("runs-error")
    rename(made[0], "another name")
    tab.fire_all("run-refresh", "click")
    assert "another name" in tab.value("history-table")
    assert "A comparison has 2 to 12 runs" in tab.value("runs-error")
    tab.change("history-chosen", ",".join(paths.id for paths in made[:2]))
    tab.fire("history-compare", "click")
    assert tab.value("runs-error") == ""


def test_values_to_try_follow_the_preset_until_others_are_typed(tab):
    assert tab.value("train-sweep-values") == sweep_panel.offered_text(
        "lambda", tab.value("setting-lambda")
    )
    tab.change("setting-lambda", 0.4)
    assert tab.value("train-sweep-values") == sweep_panel.offered_text("lambda", 0.4)
    tab.put("train-sweep-values", "0.3, 0.6")
    tab.change("setting-lambda", 0.2)
    assert tab.value("train-sweep-values") == "0.3, 0.6"


def test_a_run_of_a_sweep_leads_to_its_comparison(tab):
    alone = make_run(name="alone")
    made = [
        make_run(tags=("night", "sweep-abc"), varied=("lambda",), accuracy=0.5, **{"lambda": value})
        for value in (0.5, 0.1)
    ]
    tab.change("run-picker", alone.id)
    assert tab.prop("run-sweep-group", "visible") is False
    tab.change("run-picker", made[0].id)
    assert tab.prop("run-sweep-group", "visible") is True
    tab.fire("run-sweep-group", "click")
    assert tab.value("compare-ids") == f"{made[1].id},{made[0].id}"
    assert tab.value("run-picker") == ""


def test_the_number_of_runs_of_a_sweep_is_shown_before_its_start(tab):
    tab.change("train-sweep-values", "0.1, 0.2, 0.5")
    assert "3 runs" in tab.value("train-sweep-summary")
    tab.put("train-sweep-second", "learning_rate")
    tab.fire("train-sweep-second", "input")
    offered = tab.value("train-sweep-second-values")
    assert offered.count(",") == 2
    tab.change("train-sweep-second-values", offered)
    assert "9 runs (3 × 3 values)" in tab.value("train-sweep-summary")
    tab.put("train-sweep-setting", "nll_on")
    tab.fire("train-sweep-setting", "input")
    assert tab.value("train-sweep-values") == "sequence, answer"
    tab.change("train-sweep-values", "sequence, answer")
    assert "6 runs (2 × 3 values)" in tab.value("train-sweep-summary")


def test_no_timer_runs_while_there_is_nothing_to_wait_for(tab):
    timers = [part for part in tab.parts.values() if part["type"] == "timer"]
    assert timers
    assert not any(part["props"]["active"] for part in timers)


def test_a_quick_event_has_no_loading_status(tab):
    """The browser would update that of every output ever used, at each event of the page."""
    asked = [event for event in tab.events if event["backend_fn"]]
    quick = [event for event in asked if event["show_progress"] == "hidden"]
    assert len(quick) > 50
    assert {str(event["show_progress_on"]) for event in quick} == {"[]"}


def test_the_list_follows_a_run_at_work_from_the_first_look(served, tab):
    """Also on a page that was opened at the list, where no run was started or shown."""
    paths = make_run(name="at work", status="running")
    (timer,) = (
        event["targets"][0][0]
        for event in tab.events
        if event["targets"][0][1] == "tick" and not event["backend_fn"]
    )
    lock = storage.FileLock(paths.lock)
    with lock:
        tab.fire("tab-runs", "select")
        assert tab.parts[timer]["props"]["active"] is True
        rename(paths, "still at work")
        tab.fire_all("run-refresh", "click")
        assert "still at work" in tab.value("history-table")
    tab.fire_all("run-refresh", "click")
    assert tab.parts[timer]["props"]["active"] is False


def test_an_edited_setting_has_one_listener_that_repeats_the_event(tab):
    # Two of them repeat the event for each other without an end.
    repeating = [event for event in tab.events if event["trigger_mode"] == "always_last"]
    targets = Counter(tuple(target) for event in repeating for target in event["targets"])
    settings = [number for name, number in tab.ids.items() if name.startswith("setting-")]
    assert settings
    assert {targets[number, "input"] for number in settings} == {1}
