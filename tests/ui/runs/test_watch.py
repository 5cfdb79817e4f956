"""Updates of a run as a tab's script polls them, without a browser."""

import json
from urllib.parse import quote, unquote

import pytest
from made_runs import make_run
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from orpo_qlora import storage
from orpo_qlora.charts.view import Choices
from orpo_qlora.runs import store
from orpo_qlora.runs.process import queue as run_queue
from orpo_qlora.runs.state import RunState
from orpo_qlora.ui.runs import live_view, run_view, snapshot, watch
from orpo_qlora.ui.runs.watch import Watch

AT_FIRST = [0.6, False, "", "latest"]


@pytest.fixture
def run():
    """A run at work: this process holds its lock, as its worker would."""
    paths = make_run(status="running")
    lock = storage.FileLock(paths.lock)
    assert lock.acquire()
    grow_to(paths, 3)
    yield paths
    lock.release()


@pytest.fixture
def drawn(monkeypatch):
    """A list that grows by one whenever the charts are drawn."""
    calls, draw = [], live_view.draw
    monkeypatch.setattr(live_view, "draw", lambda *what: calls.append(what) or draw(*what))
    return calls


def grow_to(paths, last):
    paths.metrics.write_text(
        "".join(
            json.dumps({"step": step, "loss": 3.0 - step / 9}) + "\n" for step in range(1, last)
        )
    )
    state = RunState(status="running", phase="training", step=last, total_steps=99)
    store.write_state(paths, state)


def client(*, is_busy=True):
    inside = Starlette(routes=[Route("/other", lambda request: PlainTextResponse("passed on"))])
    return TestClient(Watch(inside, lambda: is_busy))


def poll(tab, paths, etag, choices=AT_FIRST):
    query = {"run": paths.id, "choices": json.dumps(choices)}
    return tab.get("/watch", params=query, headers={"If-None-Match": etag})


def etag_of(seen):
    return f'"{quote(seen)}"'


def drawn_etag(paths, choices=AT_FIRST):
    """The ETag that the script makes of what Gradio leaves on the page."""
    return etag_of(snapshot.seen_token(snapshot.take_snapshot(paths.id), Choices.of(choices)))


def test_a_step_changes_what_it_changes_and_nothing_else(run):
    tab, etag = client(), drawn_etag(run)
    assert poll(tab, run, etag).status_code == 304
    grow_to(run, 4)
    update = poll(tab, run, etag)
    now = snapshot.take_snapshot(run.id)
    parts = update.json()["parts"]
    assert parts == {
        "run-status": run_view.status_card(now),
        **live_view.draw(now, Choices().chart),
    }
    assert "step 4 of 99" in parts["run-status"]
    etag = update.headers["etag"]
    unchanged = poll(tab, run, etag)
    assert unchanged.status_code == 304
    assert unchanged.content == b""
    assert unchanged.headers["etag"] == etag
    run.log.write_text("step 4\n")
    assert poll(tab, run, etag).json()["parts"] == {"run-log": "step 4\n"}


def test_the_etag_is_the_token_that_gradio_leaves_on_the_page(run):
    answer = poll(client(), run, drawn_etag(run))
    seen = snapshot.seen_token(snapshot.take_snapshot(run.id), Choices.of(AT_FIRST))
    assert unquote(answer.headers["etag"]) == f'"{seen}"'


def test_a_weak_etag_counts_as_the_same(run):
    """A proxy that compresses sends one."""
    assert poll(client(), run, f"W/{drawn_etag(run)}").status_code == 304


def test_tabs_that_show_the_same_share_one_drawing(run, drawn):
    rough = [0.0, *AT_FIRST[1:]]
    tab, etag, etag_rough = client(), drawn_etag(run), drawn_etag(run, rough)
    grow_to(run, 4)
    answers = {poll(tab, run, etag).content for _ in range(3)}
    assert len(answers) == len(drawn) == 1
    assert poll(tab, run, etag_rough, rough).content not in answers
    assert len(drawn) == 2
    grow_to(run, 5)
    assert poll(tab, run, etag).content not in answers
    assert len(drawn) == 3


def test_the_cache_of_drawings_has_a_limit(run, monkeypatch):
    monkeypatch.setattr(watch, "CACHED_PARTS", 3)
    endpoint, etag = Watch(PlainTextResponse(""), lambda: True), drawn_etag(run)
    for step in range(4, 8):
        grow_to(run, step)
        choices = json.dumps([step / 10, *AT_FIRST[1:]])
        endpoint.poll({"run": run.id, "choices": choices}, etag)
        assert len(endpoint._rendered) <= 3


def test_what_is_more_than_a_text_is_left_to_gradio(run):
    tab, etag = client(), drawn_etag(run)
    run.samples.write_text('{"step": 3, "prompt": "a", "answer": "b", "when": "evaluation"}\n')
    assert poll(tab, run, etag).json() == {"refresh": True}
    etag = drawn_etag(run)
    assert poll(tab, run, etag).status_code == 304
    run_queue.ask_to_stop(run)
    assert poll(tab, run, etag).json() == {"refresh": True}


def test_polling_ends_when_no_run_is_active(run):
    done = make_run(status="finished")
    etag = drawn_etag(done)
    assert poll(client(is_busy=False), done, etag).json() == {"refresh": True}
    # While another run trains the timer stays on, and this run has no updates.
    assert poll(client(is_busy=True), done, etag).status_code == 304


@pytest.mark.parametrize("seen", ["", "{", "[1]", '"text"', '{"plots": 3}', "[" * 9000])
def test_a_tab_that_shows_something_else_is_drawn_by_gradio(run, seen):
    assert poll(client(), run, etag_of(seen)).json() == {"refresh": True}


@pytest.mark.parametrize("etag", ["", '"', "W/", "*", '"%ff%00"', "\x7f"])
def test_an_etag_of_another_kind_is_answered(run, etag):
    assert poll(client(), run, etag).json() == {"refresh": True}


@pytest.mark.parametrize("choices", [None, "x", {}, [], [0.6] * 9, ["x", "y", "z", "w"], [[], {}]])
def test_choices_that_mean_nothing_are_answered(run, choices):
    assert poll(client(), run, drawn_etag(run), choices).status_code in {200, 304}


@pytest.mark.parametrize("run_id", ["", "../../etc", "20260101-000000-beef"])
def test_an_unknown_run_is_left_to_gradio_which_shows_the_error(run_id):
    assert client().get("/watch", params={"run": run_id}).json() == {"refresh": True}


def test_updates_are_compressed_for_clients_that_accept_it(run):
    tab, etag = client(), drawn_etag(run)
    grow_to(run, 4)
    compressed = poll(tab, run, etag)
    assert compressed.headers["content-encoding"] == "gzip"
    tab.headers["accept-encoding"] = "identity"
    plain = poll(tab, run, etag)
    assert "content-encoding" not in plain.headers
    assert plain.json() == compressed.json()


def test_every_other_request_is_passed_on():
    assert client().get("/other").text == "passed on"
