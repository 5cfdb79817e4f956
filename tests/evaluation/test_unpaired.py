"""Held-out responses that are not paired: their statistics, and a run from rows to report card."""

import numpy as np
import pytest
from files import json_lines, loaded

from orpo_qlora.config import build_config
from orpo_qlora.evaluation import report_card
from orpo_qlora.evaluation import request as evaluation_request
from orpo_qlora.evaluation.unpaired import Responses
from orpo_qlora.export.reports.report_card_html import draw_report, report_of
from orpo_qlora.runs import store
from orpo_qlora.runs.process import launch

LOGPS = np.asarray([-1.0, -3.0, -2.0, -1.0, -4.0])
FOUND = Responses(np.asarray([True, True, False, False, False]), np.arange(5))


def test_accuracy_is_the_share_of_combinations_that_are_won():
    """−1 wins against −2 and −4 but not against its equal; −3 wins against −4: 3 of 6."""
    accuracy = FOUND.accuracy(LOGPS)
    assert accuracy(np.ones((1, 5)))[0] == pytest.approx(3 / 6)
    # A prompt that is drawn twice counts twice: 2 · 2 + 1 of 3 · 3.
    assert accuracy(np.asarray([[2.0, 1, 1, 1, 1]]))[0] == pytest.approx(5 / 9)
    assert np.isnan(accuracy(np.asarray([[0.0, 0, 1, 1, 1]]))[0])


def test_margin_is_the_difference_of_means():
    assert FOUND.margin(LOGPS)(np.ones((1, 5)))[0] == pytest.approx(-2 + 7 / 3)


def test_the_interval_contains_the_value():
    found = FOUND.interval(FOUND.accuracy(LOGPS))
    assert 0 <= found.low < found.value < found.high <= 1
    assert found == FOUND.interval(FOUND.accuracy(LOGPS))


def test_single_responses_from_rows_to_the_report_card(tiny_model, tmp_path):
    rows = [
        (f"Name {row}", "yes it is" if row % 3 else "no it is not", row % 3 > 0)
        for row in range(24)
    ]
    dataset = loaded(tmp_path, json_lines(rows, ("prompt", "completion", "label")))
    settings = {"model": str(tiny_model), "pairs_per_step": 6, "held_out": 0.3, "max_steps": 3}
    config = build_config(settings | {"method": "kto", "learning_rate": 1e-3})
    paths = launch.start_run(config, dataset)
    run = launch.wait_for(paths, 240)
    assert run.state.status == "finished", store.log_tail(paths)
    metrics = store.metrics_of(paths)
    assert metrics.series("log_odds_ratio", held_out=True) == []
    card = evaluation_request.wait_for(run, lambda _: None)
    for name, tell in {
        "logps/accuracies": lambda side: side.accuracy.value,
        "logps/chosen": lambda side: side.chosen_logp,
        "logps/rejected": lambda side: side.rejected_logp,
    }.items():
        (_, before), *_, (_, after) = metrics.series(name, held_out=True)
        assert tell(card.base) == pytest.approx(before, abs=1e-4), name
        assert tell(card.tuned) == pytest.approx(after, abs=1e-4), name
    assert card.pairs == len(store.held_out_pairs(paths)) == len(card.responses.rows)
    assert f"of the combinations of {card.pairs} held-out responses" in card.sentences()[0]
    assert report_card.flips(run, card, gained=True, most=3) == []
    page = draw_report(report_of(run, card))
    assert "all combinations of a chosen with a rejected" in page
    assert "equal length" not in page
