import pytest
from holder import held
from made_runs import make_run

from orpo_qlora.errors import InputError, UnknownRun
from orpo_qlora.runs import store
from orpo_qlora.runs.process import deletion as deletion_of_runs
from orpo_qlora.runs.process import queue as run_queue
from orpo_qlora.runs.state import RunState


@pytest.fixture
def at_work():
    """A run whose lock a process holds as its worker would."""
    paths = make_run(status="running")
    with held(paths.lock):
        yield paths


@pytest.mark.parametrize("status", ["finished", "stopped", "failed", "interrupted"])
def test_a_run_that_has_ended_is_deleted_with_everything(status):
    stored = "running" if status == "interrupted" else status
    paths, other = make_run(status=stored), make_run(name="other")
    assert store.read_run(paths).state.status == status
    deletion_of_runs.delete_run(paths)
    assert [run.id for run in store.list_runs()] == [other.id]
    assert [path.name for path in store.runs_folder().iterdir()] == [other.id]
    with pytest.raises(UnknownRun):
        deletion_of_runs.delete_run(paths)


def test_a_run_at_work_is_not_deleted(at_work):
    with pytest.raises(InputError, match="is running: stop it first"):
        deletion_of_runs.delete_run(at_work)
    at_work.stop.touch()
    with pytest.raises(InputError, match="is stopping"):
        deletion_of_runs.delete_run(at_work)
    assert store.read_run(at_work).is_at_work


def test_a_run_in_the_queue_is_not_deleted():
    paths = make_run(status="queued")
    with pytest.raises(InputError, match="take it out of the queue"):
        deletion_of_runs.delete_run(paths)
    assert store.read_run(paths).state.status == "queued"


def test_a_run_in_the_chat_is_not_deleted():
    paths = make_run(name="talking")
    with pytest.raises(InputError, match="holds the adapter of run “talking”"):
        deletion_of_runs.delete_run(paths, held_by_chat=[paths.id])
    deletion_of_runs.delete_run(paths, held_by_chat=["20260101-000000-beef"])


@pytest.mark.parametrize("run_id", ["../../etc", "..", "", ".deleted-20260101-000000-beef"])
def test_only_a_run_of_this_home_can_be_deleted(run_id, own_home):
    outside = own_home / "datasets" / "kept"
    make_run()
    outside.write_text("stays")
    with pytest.raises(UnknownRun):
        deletion_of_runs.delete_run(store.paths_of(run_id))
    assert outside.read_text() == "stays"


def test_what_a_link_leads_to_is_not_deleted(own_home, tmp_path):
    paths = make_run()
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("stays")
    (paths.folder / "link").symlink_to(precious)
    moved = tmp_path / "elsewhere"
    second = make_run(name="second")
    second.folder.rename(moved)
    second.folder.symlink_to(moved)
    deletion_of_runs.delete_run(paths)
    deletion_of_runs.delete_run(second)
    assert store.list_runs() == []
    assert (precious / "file").read_text() == "stays"
    assert (moved / "config.yaml").is_file()


def test_a_deletion_that_was_cut_short_is_out_of_the_list_and_swept_later():
    paths = make_run()
    store.set_aside(paths)
    assert store.list_runs() == []
    assert len(list(store.runs_folder().iterdir())) == 1
    store.sweep_drafts()
    assert list(store.runs_folder().iterdir()) == []


def test_a_deleted_run_is_no_order_s_run_and_waits_no_more():
    paths = make_run()
    store.write_state(paths, RunState(status="finished", ticket="t1"))
    deletion_of_runs.delete_run(paths)
    assert run_queue.run_of_ticket("t1") is None
    assert run_queue.queued_runs() == []
