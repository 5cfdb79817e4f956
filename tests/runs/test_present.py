import pytest

from orpo_qlora.config import TrainConfig
from orpo_qlora.methods import settings_read
from orpo_qlora.runs import present
from orpo_qlora.runs.state import RunState
from orpo_qlora.ui.parts import cards
from orpo_qlora.ui.runs.samples_view import samples_table


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (1234, "20 min"),
        (3599.7, "1 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_duration(seconds, text):
    assert present.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1.23456, "1.23"),
        (-0.000123, "-0.000123"),
        (999.4, "999"),
        (999.7, "1,000"),
        (-999.5, "-1,000"),
        (12345.6, "12,346"),
    ],
)
def test_number_has_three_meaningful_digits(value, text):
    assert present.number(value) == text


def test_share_is_shown_in_per_cent():
    assert present.percent(0.875) == "88 %"


def test_progress_says_phase_step_pace_and_time_left():
    state = RunState(
        status="running", phase="training", step=120, total_steps=600, seconds_per_step=1.8
    )
    expected = "Training · step 120 of 600 · 1.8 s per step · about 14 min left"
    assert present.progress_sentence(state) == expected


def test_run_that_is_saving_is_not_shown_as_complete():
    state = RunState(status="running", step=10, total_steps=10)
    assert present.progress_percent(state) == 99
    assert present.progress_percent(state.moved_to("finished")) == 100


def test_progress_of_unknown_length_is_unknown():
    assert present.progress_percent(RunState(status="starting")) is None


def test_every_status_is_explained():
    assert set(present.STATUS_MEANINGS) == set(RunState.model_fields["status"].annotation.__args__)


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "yes"), (0.0002, "0.0002"), ((), "–"), (("a", "b"), "a; b"), ("", "–"), (8, "8")],
)
def test_setting_value(value, text):
    assert present.setting_value(value) == text


HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.mark.parametrize(
    "block",
    [
        cards.error_card(HOSTILE, hint=HOSTILE, where=HOSTILE),
        cards.text_card(HOSTILE, [HOSTILE]),
        cards.empty_card(HOSTILE, HOSTILE),
        samples_table([{"prompt": HOSTILE, "answer": HOSTILE, "step": 1}] * 2, HOSTILE),
        cards.settings_table([(HOSTILE, HOSTILE, HOSTILE)]),
        cards.notes_list([HOSTILE]),
        cards.reason(HOSTILE),
        cards.note(HOSTILE),
    ],
)
def test_text_from_files_and_models_is_never_markup(block):
    assert "<img" not in block
    assert "&lt;img" in block


def test_error_card_is_announced():
    assert 'role="alert"' in cards.error_card("No.")


@pytest.mark.parametrize(
    ("value", "text"), [(2e-4, "2e-4"), (1.234e-5, "1.23e-5"), (0, "0"), (1.5, "1.5e0")]
)
def test_scientific(value, text):
    assert present.scientific(value) == text


def test_settings_of_other_methods_are_left_out():
    dpo = settings_read(TrainConfig(method="dpo"))
    assert {"method", "beta", "label_smoothing"} <= set(dpo)
    assert not {"lambda", "gamma", "cpo_alpha", "ratio"} & set(dpo)
    assert {"lambda", "ratio"} <= set(settings_read(TrainConfig()))
