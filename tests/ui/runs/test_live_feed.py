"""The news of a run as a tab's script asks for them, without a browser."""

import json
from concurrent.futures import ThreadPoolExecutor

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
from orpo_qlora.ui.runs import live_feed, live_view, snapshot
from orpo_qlora.ui.runs import tab as runs_tab
from orpo_qlora.ui.runs.live_feed import LiveFeed

TABS = 20
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


@pytest.fixture(autouse=True)
def no_reuse(monkeypatch):
    monkeypatch.setattr(live_feed, "REUSE_SECONDS", 0.0)
    monkeypatch.setattr(live_feed, "MOST_REUSE_SECONDS", 0.0)


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
    return TestClient(LiveFeed(inside, lambda: is_busy))


def ask(tab, paths, seen, choices=AT_FIRST):
    query = {"run": paths.id, "seen": seen, "choices": json.dumps(choices)}
    return tab.get("/watch", params=query)


def seen_of(paths, choices=AT_FIRST):
    """What Gradio leaves on the page when it has drawn a run."""
    chosen = Choices.of(choices)
    return snapshot.seen_token(snapshot.take_snapshot(paths.id), chosen)


def test_a_step_changes_what_it_changes_and_nothing_else(run):
    tab, seen = client(), seen_of(run)
    assert ask(tab, run, seen).status_code == 204
    grow_to(run, 4)
    told = ask(tab, run, seen).json()
    now = snapshot.take_snapshot(run.id)
    assert told["parts"] == {
        "run-status": runs_tab.status_card(now),
        **live_view.draw(now, Choices().chart),
    }
    assert "step 4 of 99" in told["parts"]["run-status"]
    assert ask(tab, run, told["seen"]).status_code == 204
    run.log.write_text("step 4\n")
    assert ask(tab, run, told["seen"]).json()["parts"] == {"run-log": "step 4\n"}


def test_twenty_tabs_share_one_drawing(run, monkeypatch):
    monkeypatch.setattr(live_feed, "REUSE_SECONDS", 60.0)
    drawn, draw = [], live_view.draw
    monkeypatch.setattr(live_view, "draw", lambda *what: drawn.append(what) or draw(*what))
    rough = [0.0, *AT_FIRST[1:]]
    tab, seen, seen_rough = client(), seen_of(run), seen_of(run, rough)
    grow_to(run, 4)
    with ThreadPoolExecutor(TABS) as tabs:
        answers = list(tabs.map(lambda _: ask(tab, run, seen).content, range(TABS)))
    assert len(set(answers)) == len(drawn) == 1
    # Who wants to see it otherwise gets another one.
    assert ask(tab, run, seen_rough, rough).content not in answers
    assert len(drawn) == 2


def test_what_one_tab_was_told_others_are_told_without_a_thread(run, monkeypatch):
    monkeypatch.setattr(live_feed, "REUSE_SECONDS", 60.0)
    worked, news = [], LiveFeed.news
    monkeypatch.setattr(LiveFeed, "news", lambda *what: worked.append(what) or news(*what))
    tab, seen = client(), seen_of(run)
    grow_to(run, 4)
    first = ask(tab, run, seen)
    assert ask(tab, run, seen).content == first.content
    assert ask(tab, run, first.json()["seen"]).status_code == 204
    assert len(worked) == 1
    # A text that nobody was told yet, what Gradio must draw, another view: each needs work.
    others = json.loads(first.json()["seen"]) | {"log": ""}
    assert list(ask(tab, run, json.dumps(others)).json()["parts"]) == ["run-log"]
    assert ask(tab, run, "").json() == {"turn": True}
    assert ask(tab, run, seen, [0.0, *AT_FIRST[1:]]).status_code == 200
    assert len(worked) == 4


def test_who_asks_first_is_told_when_to_come_back_like_all(run, monkeypatch):
    tab, seen = client(), seen_of(run)
    monkeypatch.setattr(live_feed, "ANSWER_SECONDS", 10.0)
    assert ask(tab, run, seen).status_code == 204
    monkeypatch.setattr(live_feed, "ANSWER_SECONDS", 0.0)
    monkeypatch.setattr(live_feed, "MOST_REUSE_SECONDS", 60.0)
    monkeypatch.setattr(live_feed, "SHARE", 0.5)
    assert 15 < float(ask(tab, run, seen).headers[live_feed.AGAIN]) <= 60


def test_what_is_drawn_outlives_looks_that_find_nothing_new(run, monkeypatch):
    drawn, draw = [], live_view.draw
    monkeypatch.setattr(live_view, "draw", lambda *what: drawn.append(what) or draw(*what))
    tab, seen = client(), seen_of(run)
    grow_to(run, 4)
    for _ in range(3):
        assert "plot-loss" in ask(tab, run, seen).json()["parts"]
    assert len(drawn) == 1


def test_what_costs_more_than_its_share_is_looked_at_less_often(run, monkeypatch):
    tab, seen = client(), seen_of(run)
    assert float(ask(tab, run, seen).headers[live_feed.AGAIN]) == 0.0
    monkeypatch.setattr(live_feed, "MOST_REUSE_SECONDS", 60.0)
    monkeypatch.setattr(live_feed, "SHARE", 1e-9)
    assert ask(tab, run, seen).status_code == 204
    grow_to(run, 4)
    again = ask(tab, run, seen)
    assert again.status_code == 204
    assert 50 < float(again.headers[live_feed.AGAIN]) <= 60
    monkeypatch.setattr(live_feed, "SHARE", 1e9)
    assert "step 4 of 99" in ask(tab, run, seen).json()["parts"]["run-status"]
    # However much it costs, a person is not left waiting.
    grow_to(run, 5)
    monkeypatch.setattr(live_feed, "SHARE", 1e-9)
    monkeypatch.setattr(live_feed, "MOST_REUSE_SECONDS", 0.0)
    assert "step 5 of 99" in ask(tab, run, seen).json()["parts"]["run-status"]


def test_looks_that_nobody_asks_for_are_let_go(run, monkeypatch):
    monkeypatch.setattr(live_feed, "KEPT_SECONDS", 0.0)
    feed = LiveFeed(PlainTextResponse(""), lambda: True)
    others = [make_run(name=str(number)) for number in range(3)]
    for paths in (*others, run, *others, run):
        assert feed.news({"run": paths.id, "seen": seen_of(paths)})[0] == b""
        assert len(feed._places) == 1


def test_what_is_more_than_a_text_is_left_to_gradio(run):
    tab, seen = client(), seen_of(run)
    run.samples.write_text('{"step": 3, "prompt": "a", "answer": "b", "when": "evaluation"}\n')
    assert ask(tab, run, seen).json() == {"turn": True}
    seen = seen_of(run)
    assert ask(tab, run, seen).status_code == 204
    run_queue.ask_to_stop(run)
    assert ask(tab, run, seen).json() == {"turn": True}


def test_the_watch_ends_when_nothing_is_at_work(run):
    done = make_run(status="finished")
    seen = seen_of(done)
    assert ask(client(is_busy=False), done, seen).json() == {"turn": True}
    # Beside a run that trains the timer goes on, and this one has no news.
    assert ask(client(is_busy=True), done, seen).status_code == 204


@pytest.mark.parametrize("seen", ["", "{", "[1]", '"text"', '{"plots": 3}', "[" * 9000])
def test_a_tab_that_shows_something_else_is_drawn_by_gradio(run, seen):
    assert ask(client(), run, seen).json() == {"turn": True}


@pytest.mark.parametrize("choices", [None, "x", {}, [], [0.6] * 9, ["x", "y", "z", "w"], [[], {}]])
def test_choices_that_mean_nothing_are_answered(run, choices):
    assert ask(client(), run, seen_of(run), choices).status_code in {200, 204}


@pytest.mark.parametrize("run_id", ["", "../../etc", "20260101-000000-beef"])
def test_an_unknown_run_is_left_to_gradio_which_says_so(run_id):
    assert client().get("/watch", params={"run": run_id}).json() == {"turn": True}


def test_whoever_cannot_unsqueeze_gets_it_whole(run):
    tab, seen = client(), seen_of(run)
    grow_to(run, 4)
    squeezed = ask(tab, run, seen)
    assert squeezed.headers["content-encoding"] == "gzip"
    tab.headers["accept-encoding"] = "identity"
    whole = ask(tab, run, seen)
    assert "content-encoding" not in whole.headers
    assert whole.json() == squeezed.json()


def test_every_other_request_is_passed_on():
    assert client().get("/other").text == "passed on"
