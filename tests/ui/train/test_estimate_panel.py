"""The estimate's handlers on a real file and a real job, without a browser."""

import dataclasses
import time

import gradio as gr
import pytest
from form_values import values_of
from tiny import claim_layers

from orpo_qlora.config import build_config
from orpo_qlora.errors import Busy, ConfigError, InputError
from orpo_qlora.jobs import estimation
from orpo_qlora.runs.process import launch
from orpo_qlora.ui.data import uploads
from orpo_qlora.ui.parts import form
from orpo_qlora.ui.train import estimate_panel
from orpo_qlora.ui.train.estimate_panel import EstimatePanel

WAIT_SECONDS = 240.0


@pytest.fixture
def panel():
    """A panel whose components only stand for themselves: a page would open event loops."""
    return EstimatePanel(**{field.name: gr.HTML() for field in dataclasses.fields(EstimatePanel)})


@pytest.fixture
def dataset_id(tmp_path):
    path = tmp_path / "pairs.csv"
    rows = [f"what is {i}?,it is {i} as a number,who can say {i}" for i in range(12)]
    path.write_text("prompt,chosen,rejected\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return uploads.store_upload(path, "pairs.csv")


def values_for(model, **settings):
    return values_of(build_config({"model": str(model), "max_steps": 5, **settings}))


def watched(panel, dataset_id, values):
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        updates = estimate_panel.look(panel, dataset_id, values)
        if not updates[panel.timer].active:
            return updates
        assert "Estimating: " in updates[panel.view]
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


def test_nothing_is_measured_until_requested_and_then_it_is_a_sentence(
    panel, dataset_id, tiny_model
):
    values = values_for(tiny_model)
    assert estimate_panel.UNKNOWN in estimate_panel.look(panel, dataset_id, values)[panel.view]
    assert estimate_panel.requested(dataset_id, values) is None
    assert list(estimation.JOB.folder().iterdir()) == []
    updates = estimate_panel.estimate(panel, dataset_id, values)
    assert updates[panel.timer].active
    assert estimate_panel.requested(dataset_id, values).state.is_busy
    updates = watched(panel, dataset_id, values)
    assert updates[panel.estimate] == estimate_panel.AGAIN
    for words in ("About ", "of memory (", "of disk.", "for 5 steps", "How it was measured"):
        assert words in updates[panel.view]
    # Another learning rate costs the same; another length does not, so nothing is claimed.
    cheap = values_for(tiny_model, learning_rate=0.01)
    assert estimate_panel.look(panel, dataset_id, cheap)[panel.view] == updates[panel.view]
    longer = values_for(tiny_model, max_length=2048)
    assert estimate_panel.UNKNOWN in estimate_panel.look(panel, dataset_id, longer)[panel.view]


def test_what_does_not_fit_says_what_to_change(panel, dataset_id, tiny_model, tmp_path):
    deep = claim_layers(tiny_model, tmp_path / "deep")
    greedy = {"max_tokens_per_forward": 10**9, "activation_checkpointing": "off", "lora_r": 1}
    values = values_for(deep, pairs_per_step=12, **greedy)
    estimate_panel.estimate(panel, dataset_id, values)
    view = watched(panel, dataset_id, values)[panel.view]
    assert "estimate-unfit" in view
    assert "<li>“Tokens per forward”: set it to 0" in view


def test_a_failed_estimate_is_an_error_card_and_can_be_repeated(panel, dataset_id):
    values = values_for("nobody/nothing")
    estimate_panel.estimate(panel, dataset_id, values)
    updates = watched(panel, dataset_id, values)
    assert 'role="alert"' in updates[panel.view]
    assert "hub cannot be reached" in updates[panel.view]
    assert estimate_panel.estimate(panel, dataset_id, values)[panel.timer].active
    watched(panel, dataset_id, values)


def test_no_estimate_beside_an_active_run(panel, dataset_id, tiny_model):
    values = values_for(tiny_model, max_steps=5000)
    paths = launch.start_run(form.config_from(values), uploads.open_upload(dataset_id))
    try:
        with pytest.raises(Busy, match="needs the machine to itself"):
            estimate_panel.estimate(panel, dataset_id, values)
    finally:
        launch.end_run(paths, WAIT_SECONDS)


def test_without_pairs_or_with_wrong_settings_nothing_is_estimated(panel, dataset_id, tiny_model):
    wrong = ["nonsense" if value == "cosine" else value for value in values_for(tiny_model)]
    with pytest.raises(InputError, match="no pairs"):
        estimate_panel.estimate(panel, "", values_for(tiny_model))
    with pytest.raises(ConfigError, match="scheduler"):
        estimate_panel.estimate(panel, dataset_id, wrong)
    for updates in (
        estimate_panel.look(panel, "", values_for(tiny_model)),
        estimate_panel.look(panel, dataset_id, wrong),
    ):
        assert updates[panel.view] == ""
        assert not updates[panel.timer].active
