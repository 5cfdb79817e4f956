import pytest
from form_values import values_of
from made_runs import make_run

from orpo_qlora.config import build_config
from orpo_qlora.data.examples import example_path
from orpo_qlora.errors import ConfigError, InputError
from orpo_qlora.jobs import estimation
from orpo_qlora.jobs.estimation import Estimate, Seconds
from orpo_qlora.runs import store
from orpo_qlora.runs.process import launch
from orpo_qlora.ui.data import uploads
from orpo_qlora.ui.history import sweep_panel
from orpo_qlora.ui.train import estimate_panel

CONFIG = build_config({"lambda": 0.1, "max_steps": 3})
VALUES = values_of(CONFIG)
LAMBDAS = ("lambda", "0.1, 0.5", "", "")
CROSSED = ("lambda", "0.1, 0.5, 1", "learning_rate", "1e-4 2e-4")


@pytest.fixture(autouse=True)
def no_worker(monkeypatch):
    monkeypatch.setattr(launch, "_start_next", lambda: None)


@pytest.fixture
def of_form():
    return sweep_panel.FormSource(None, None, [])


@pytest.fixture
def of_run():
    return sweep_panel.RunSource(None)


@pytest.fixture
def dataset_id():
    return uploads.store_upload(example_path("hello"), "hello.csv")


def leave_estimate(dataset_id, config, seconds):
    paths = estimation.paths_of(estimate_panel.request_of(dataset_id, values_of(config)))
    paths.folder.mkdir(parents=True)
    estimate = Estimate(
        **{"made_at": 0, "device": "cpu", "pairs": 9, "held_out_pairs": 1, "longest_tokens": 9},
        **{"memory_bytes": 1, "predicted_memory_bytes": 1, "measured_memory_bytes": 1},
        **{"free_memory_bytes": 9, "seconds": Seconds(training=seconds)},
    )
    paths.estimate.write_text(estimate.model_dump_json())


def test_several_files_are_swept_and_their_estimate_is_found(of_form, tmp_path, monkeypatch):
    other = tmp_path / "other.csv"
    other.write_text("prompt,chosen,rejected\nWhich?,This one.,None.\nWho?,She did.,No idea.\n")
    both = uploads.store_files([example_path("hello"), other])
    others = ("ticket", both, *VALUES)
    assert "2 runs. No estimate yet" in sweep_panel.summary_of(of_form, *LAMBDAS, *others)
    monkeypatch.setattr(estimation, "is_requested", lambda _: True)
    leave_estimate(both, CONFIG, 60.0)
    assert of_form.seconds([CONFIG, CONFIG], *others) == 120.0
    runs = of_form.start(sweep_panel.variations_of(*LAMBDAS), *others)
    assert {run.report.sha256 for run in runs} == {both}
    assert all(len(run.report.files) == 2 for run in runs)


def test_the_number_of_runs_is_shown_before_they_start(of_form, dataset_id):
    others = ("ticket", dataset_id, *VALUES)
    assert "2 runs. No estimate yet" in sweep_panel.summary_of(of_form, *LAMBDAS, *others)
    assert "6 runs (3 × 2 values)." in sweep_panel.summary_of(of_form, *CROSSED, *others)
    assert store.list_runs() == []


def test_the_time_is_that_of_each_run_s_estimate_or_of_the_form_s(of_form, dataset_id, monkeypatch):
    monkeypatch.setattr(estimation, "is_requested", lambda _: True)
    others = ("ticket", dataset_id, *VALUES)
    leave_estimate(dataset_id, CONFIG, 120)
    assert "2 runs. About 4 minutes" in sweep_panel.summary_of(of_form, *LAMBDAS, *others)
    leave_estimate(dataset_id, CONFIG.model_copy(update={"lambda_": 0.5}), 600)
    assert "2 runs. About 12 minutes" in sweep_panel.summary_of(of_form, *LAMBDAS, *others)


def test_a_finished_run_tells_how_long_others_take(of_run):
    paths = make_run(**{"lambda": 0.1})  # took 60 s
    shown = sweep_panel.summary_of(of_run, *CROSSED, paths.id)
    # Its own combination is (0.1, 2e-4).
    assert "5 runs (3 × 2 values). About 5 minutes together." in shown


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (("lambda", "0.1", "", ""), "single value"),
        (("lambda", "0.1 7", "", ""), "less than or equal to 2"),
        (("lambda", "0.1 0.2", "lambda", "0.3 0.4"), "varied twice"),
        (("lambda", "0.1 0.2", "seed", ""), "no value of seed"),
        (("seed", "1 2 3 4 5 6 7 8 9 10 11 12 13", "", ""), "at most 12 runs"),
    ],
)
def test_what_is_wrong_is_shown_before_the_start(of_form, dataset_id, chosen, message):
    others = ("ticket", dataset_id, *VALUES)
    assert message in sweep_panel.summary_of(of_form, *chosen, *others)
    with pytest.raises((InputError, ConfigError), match=message):
        of_form.start(sweep_panel.variations_of(*chosen), *others)
    assert store.list_runs() == []


def test_a_sweep_without_data_says_where_to_choose_them(of_form):
    with pytest.raises(InputError, match="no pairs to train on") as refused:
        of_form.start(sweep_panel.variations_of(*LAMBDAS), "ticket", "", *VALUES)
    assert "Data tab" in refused.value.hint


def test_the_form_s_settings_are_those_of_every_run(of_form, dataset_id):
    variations = sweep_panel.variations_of(*CROSSED)
    for _ in range(2):  # pressed twice
        runs = of_form.start(variations, "ticket", dataset_id, *VALUES)
    assert len(store.list_runs()) == len(runs) == 6
    assert {run.config.max_steps for run in runs} == {3}
    assert [run.config.lambda_ for run in runs] == [0.1, 0.1, 0.5, 0.5, 1.0, 1.0]


def test_a_run_is_the_first_of_the_sweep_around_it(of_run):
    paths = make_run(**{"lambda": 0.1})
    runs = of_run.start(sweep_panel.variations_of(*LAMBDAS), paths.id)
    assert [run.config.lambda_ for run in runs] == [0.1, 0.5]
    assert runs[0].id == paths.id


@pytest.mark.parametrize(
    ("method", "setting", "values"),
    [
        ("orpo", "lambda", "0.05, 0.1, 0.2"),
        ("dpo", "beta", "0.05, 0.1, 0.2"),
        ("simpo", "beta", "1, 2, 4"),
        ("sft", "learning_rate", "0.0001, 0.0002, 0.0004"),
    ],
)
def test_the_weight_of_the_method_is_offered(method, setting, values):
    assert sweep_panel.usual_offer(build_config({"method": method})) == (setting, values)
