"""The live part of the Runs tab, asked as the page asks it."""

import dataclasses
import json
from typing import get_type_hints

import gradio as gr
import pytest

from orpo_qlora.charts import plots
from orpo_qlora.charts import view as chart_view
from orpo_qlora.charts.view import ChartView, Choices
from orpo_qlora.config import build_config
from orpo_qlora.data.examples import example_path
from orpo_qlora.data.pairs import load_preferences, split_pairs
from orpo_qlora.errors import NonFiniteLoss
from orpo_qlora.runs import store
from orpo_qlora.runs.curves import metrics
from orpo_qlora.runs.curves.insight import Insight
from orpo_qlora.runs.state import ErrorCard, RunState
from orpo_qlora.ui.runs import live_view, snapshot
from orpo_qlora.ui.runs import tab as runs_tab
from orpo_qlora.ui.runs.live_view import LiveView
from orpo_qlora.ui.runs.run_view import RunView
from orpo_qlora.ui.runs.tab import RunsTab


def stand_in(kind, **parts):
    """Components that only stand for themselves: a page would open event loops."""
    missing = {name: type_ for name, type_ in get_type_hints(kind).items() if name not in parts}
    made = {
        name: stand_in(type_) if dataclasses.is_dataclass(type_) else gr.HTML()
        for name, type_ in missing.items()
    }
    return kind(**made, **parts)


@pytest.fixture(scope="module")
def tab():
    live = stand_in(LiveView, plots=tuple(gr.HTML() for _ in plots.PLOTS), folds={})
    return stand_in(RunsTab, run=stand_in(RunView, live=live, folds={}))


@pytest.fixture
def run():
    dataset = load_preferences(example_path("hello"))
    config = build_config({"lambda": 0.5})
    paths = store.create_run(config, split_pairs(dataset.pairs, 0, 1), dataset.report)
    records = [{"step": step, "loss": 3 - step / 100} for step in range(1, 41)]
    paths.metrics.write_text("".join(json.dumps(record) + "\n" for record in records))
    return paths


def test_a_fresh_page_gets_every_part(tab, run):
    updates = runs_tab.show_updates(tab, run.id)
    assert {
        *tab.run.live.plots,
        tab.run.live.insight,
        tab.run.live.table,
        tab.run.live.samples,
    } <= set(updates)
    assert "rule <code>healthy</code>" in updates[tab.run.live.insight]
    assert updates[tab.run.live.remark] == ""


def test_another_choice_redraws_the_curves_and_nothing_else(tab, run):
    seen = runs_tab.show_updates(tab, run.id)[tab.seen]
    assert runs_tab.show_updates(tab, run.id, seen) is None
    chosen = Choices(ChartView(0.0, steps=(10, 20)))
    updates = runs_tab.show_updates(tab, run.id, seen, chosen)
    assert tab.run.status not in updates
    loss = updates[tab.run.live.plots[0]]
    assert 'data-low="10" data-high="20"' in loss
    assert "curve-raw" not in loss
    # The page remembers how it was drawn: the next tick has nothing to do.
    assert runs_tab.show_updates(tab, run.id, updates[tab.seen], chosen) is None


def test_another_run_is_shown_whole(tab):
    updates = live_view.reset_updates(tab.run.live)
    assert updates[tab.run.live.steps] == ""
    assert Choices.of((0.2, True)) == Choices(ChartView(0.2, is_log=True))


def test_unreadable_input_is_reported(tab, run):
    updates = runs_tab.show_updates(tab, run.id, "", Choices.of((0.6, False, "<b>", "latest")))
    assert "“&lt;b&gt;” is not a range of steps" in updates[tab.run.live.remark]


def test_a_long_file_is_shown_while_it_is_read(tab, run, monkeypatch):
    monkeypatch.setattr(metrics, "PIECE_BYTES", 100)
    monkeypatch.setattr(snapshot, "MOST_SECONDS", 0.0)
    updates = runs_tab.show_updates(tab, run.id)
    assert "Reading metrics" in updates[tab.run.live.insight]
    assert runs_tab.awaits_more(run.id)
    for _ in range(100):
        updates = runs_tab.show_updates(tab, run.id, updates[tab.seen]) or updates
    assert "healthy" in updates[tab.run.live.insight]
    assert not runs_tab.awaits_more(run.id)


def test_the_step_that_ended_a_run_is_marked(tab, run):
    error = ErrorCard.of(NonFiniteLoss("The loss of step 41 is not a finite number."))
    store.write_state(run, RunState(status="failed", step=40, total_steps=90, error=error))
    updates = runs_tab.show_updates(tab, run.id)
    loss, logps = updates[tab.run.live.plots[0]], updates[tab.run.live.plots[1]]
    assert "loss is not a finite number at step 41" in loss
    assert loss.count('class="broken"') == 1
    assert 'class="broken"' not in logps


def test_an_insight_shows_its_rule_and_every_warning():
    card = live_view.insight_card(
        [Insight("plateau", "watch", "It <stays>.", "Stop."), Insight("overfit", "bad", "Too far.")]
    )
    assert "It &lt;stays&gt;. Stop." in card
    assert card.count("<code>") == 2
    assert "insight-watch" in card


def test_every_plot_has_a_name_of_its_own():
    names = [plot.name for plot in plots.PLOTS]
    assert len(set(names)) == len(names) == 9


def test_the_address_says_how_a_run_is_seen_whatever_it_says():
    asked = {"smoothing": "0", "log": "true", "steps": "5-30", "answers": "8"}
    assert chart_view.values_in(asked) == [0.0, True, "5-30", "8"]
    assert chart_view.values_in({}) == list(chart_view.AT_FIRST)
    for wrong in ("nan", "inf", "-3", "x"):
        values = chart_view.values_in({"smoothing": wrong, "log": "1", "steps": "x" * 99})
        assert 0 <= values[0] <= chart_view.MOST_SMOOTHING
        assert values[1:] == [False, "x" * chart_view.MOST_CHARACTERS, ""]


def test_answers_that_are_not_there_are_not_chosen(tab, monkeypatch):
    samples = [{"step": 0}, {"step": 8}]
    monkeypatch.setattr(store, "samples_of", lambda _: samples)
    monkeypatch.setattr(store, "paths_of", lambda _: None)
    for asked, shown in (("8", "8"), ("9", "latest"), ("", "latest")):
        updates = live_view.restored_updates(tab.run.live, {"answers": asked}, "some run")
        assert updates[tab.run.live.answers_step].value == shown
