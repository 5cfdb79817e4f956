import pytest
from made_runs import leave_adapter, make_run, named_parts, rename

from orpo_qlora.errors import InputError
from orpo_qlora.runs import store
from orpo_qlora.runs.history import read_history
from orpo_qlora.runs.process import queue as run_queue
from orpo_qlora.ui.history import compare, deletion, history_table, listing
from orpo_qlora.ui.history.listing import filters_of, list_updates
from orpo_qlora.ui.history.shown import ids_of

NOTHING = ["", "", "", "", "newest", "", ""]


@pytest.fixture
def page():
    filters = {name: name for name in listing.FILTER_NAMES}
    return named_parts(listing.HistoryList, filters=filters), "empty"


def table_of(page, values=NOTHING, seen=""):
    part, empty = page
    updates = list_updates(part, empty, values, seen)
    return None if updates is None else updates[part.table]


def test_a_row_says_what_a_run_was_and_what_came_of_it(page):
    paths = make_run(
        name="<b>mine</b>", accuracy=0.8, tags=("<i>",), model="o/m", **{"lambda": 0.5}
    )
    table = table_of(page)
    assert "&lt;b&gt;mine" in table
    assert "<b>mine" not in table
    assert 'data-tag="&lt;i&gt;"' in table
    for text in ("finished", "o/m", "pairs.csv", "20 pairs", "80 %", paths.id, ">0.5<", ">2<"):
        assert text in table
    assert f'href="?tab=runs&amp;run={paths.id}"' in table


def test_a_run_without_held_out_pairs_shows_its_training_loss(page):
    paths = make_run()
    paths.metrics.write_text('{"step": 3, "loss": 1.25}\n')
    assert "1.25<small>training</small>" in table_of(page)


def test_runs_come_in_pages_and_one_past_the_end_is_the_last(page, monkeypatch):
    monkeypatch.setattr(history_table, "PAGE_ROWS", 2)
    for number in range(3):
        make_run(name=f"run {number}", age_seconds=-number)
    by_name = ["", "", "", "", "name"]
    first, second, beyond = (table_of(page, [*by_name, at, ""]) for at in ("", "1", "7"))
    assert "1–2 of 3 runs" in first
    assert "run 1" in first
    assert "run 2" not in first
    assert "3–3 of 3 runs" in second
    assert "run 2" in second
    assert beyond == second
    assert 'data-page="0" disabled' not in second


def test_the_list_is_drawn_again_only_when_something_changed(page):
    part, empty = page
    paths = make_run(name="mine")
    seen = list_updates(part, empty, NOTHING)[part.seen]
    assert table_of(page, NOTHING, seen) is None
    rename(paths, "yours")
    assert "yours" in table_of(page, NOTHING, seen)
    ticked = [*NOTHING[:-1], paths.id]
    assert table_of(page, ticked, seen).count(" checked") == 1


def test_no_run_and_no_match_are_different_things(page):
    part, empty = page
    assert list_updates(part, empty, NOTHING)[empty].visible is True
    make_run(name="mine")
    assert list_updates(part, empty, NOTHING)[empty].visible is False
    assert "No run matches" in table_of(page, ["other", *NOTHING[1:]])


def test_what_an_address_may_hold_is_checked():
    found = filters_of([None, "x", "", None, "by <b>"])
    assert (found.text, found.status, found.order) == ("", "x", "newest")
    assert ids_of("a,,b,a") == ["a", "b"]
    assert ids_of(None) == []


def test_a_filter_that_no_run_answers_to_any_more_is_dropped(page):
    part, _ = page
    make_run(tags=("night",))
    found = read_history()
    kept = listing.filter_updates(part, found, filters_of(["", "", "", "night", "newest"]))
    dropped = listing.filter_updates(part, found, filters_of(["", "", "", "day", "newest"]))
    assert kept[part.filters["tag"]].value == "night"
    assert dropped[part.filters["tag"]].value == ""
    # What the address does not name may have been typed by now.
    assert "text" not in kept
    assert "value" not in kept[part.filters["model"]].constructor_args


def test_a_comparison_needs_two_runs_and_takes_twelve():
    assert compare.check(["a", "b"]) == "a,b"
    for ids in (["a"], list("abcdefghijklm")):
        with pytest.raises(InputError, match="2 to 12 runs"):
            compare.check(ids)


@pytest.fixture
def asked():
    return named_parts(deletion.Deletion)


def test_deletion_names_what_goes_and_what_stays(asked, monkeypatch):
    going, talking, queued = (
        make_run(name="<b>one"),
        make_run(name="two"),
        make_run(status="queued"),
    )
    leave_adapter(going, bytes(3_000_000))
    monkeypatch.setattr(deletion, "held_by_chat", lambda: (talking.id,))
    ids = [going.id, talking.id, queued.id, "20260101-000000-beef"]
    updates = deletion.question_updates(asked, ids)
    shown = updates[asked.text]
    for text in ("Delete 1 run?", "&lt;b&gt;one", "3.0 MB", "run “two”", "waits in the queue"):
        assert text in shown
    assert updates[asked.ids] == going.id
    assert updates[asked.release].visible is True
    deletion.delete([going.id])
    assert {run.id for run in store.list_runs()} == {talking.id, queued.id}
    with pytest.raises(InputError, match="chat holds"):
        deletion.delete([talking.id])


def test_nothing_can_be_confirmed_when_nothing_can_go(asked):
    paths = make_run(status="queued")
    updates = deletion.question_updates(asked, [paths.id])
    assert updates[asked.confirm].interactive is False
    assert updates[asked.ids] == ""
    assert "Nothing can be deleted now" in updates[asked.text]
    assert run_queue.queued_runs()
