import pytest

from orpo_qlora.config import build_config
from orpo_qlora.data.examples import example_path
from orpo_qlora.data.pairs import Split, load_preferences
from orpo_qlora.evaluation import request as evaluation_request
from orpo_qlora.jobs import estimation
from orpo_qlora.jobs import job as jobs
from orpo_qlora.runs import store
from orpo_qlora.runs.state import RunState
from orpo_qlora.ui import next_step
from orpo_qlora.ui.data import uploads
from orpo_qlora.ui.train import estimate_panel, form

VALUES = form.values_of(build_config({}))


@pytest.fixture
def dataset_id():
    return uploads.keep_dataset(example_path("hello"), "hello.csv")


def made_run(status, *, adapter=False, name="mine", held_out=()):
    dataset = load_preferences(example_path("hello"))
    split = Split(tuple(dataset.pairs), tuple(held_out))
    paths = store.create_run(build_config({"name": name}), split, dataset.report)
    store.write_state(paths, RunState(status=status, created_at=1.0))
    if adapter:
        paths.adapter.mkdir()
        (paths.adapter / "adapter_model.safetensors").touch()
    return paths.id


def test_whoever_has_just_come_is_led_to_the_data():
    step = next_step.next_step("", VALUES, "")
    assert step.tab == "data"
    assert "example" in step.text


def test_pairs_lead_to_training(dataset_id):
    step = next_step.next_step(dataset_id, VALUES, "")
    assert step.tab == "train"
    assert "press “Estimate”" in step.text
    request = estimate_panel.request_of(dataset_id, VALUES)
    state = estimation.paths_of(request).state
    state.parent.mkdir(parents=True)
    state.touch()
    assert next_step.next_step(dataset_id, VALUES, "").text == "press “Start training”."


def test_a_wrong_setting_comes_first(dataset_id):
    wrong = [-1 if value == 0.0002 else value for value in VALUES]
    assert "correct the setting" in next_step.next_step(dataset_id, wrong, "").text


def test_a_file_that_asks_leads_back_to_the_data(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("frage,gut,schlecht\na,b,c\n")
    asked = next_step.next_step(uploads.keep_dataset(path, "x.csv"), VALUES, "")
    assert asked == next_step.Step("answer the question about your file.", "data")


@pytest.mark.parametrize(
    ("status", "adapter", "tab", "words"),
    [
        ("finished", True, "chat", "talk to “mine”"),
        ("stopped", True, "chat", "talk to “mine”"),
        ("stopped", False, "runs", "resume it"),
        ("failed", False, "runs", "what ended “mine”"),
        ("failed", True, "runs", "what ended “mine”"),
    ],
)
def test_a_run_that_is_over_leads_on(dataset_id, status, adapter, tab, words):
    run_id = made_run(status, adapter=adapter)
    for chosen in ("", dataset_id):
        step = next_step.next_step(chosen, VALUES, run_id)
        assert step.tab == tab
        assert words in step.text


def test_a_run_that_kept_pairs_away_leads_to_what_it_has_learnt(dataset_id, monkeypatch):
    pairs = load_preferences(example_path("hello")).pairs
    run_id = made_run("finished", adapter=True, held_out=pairs[:2])
    step = next_step.next_step(dataset_id, VALUES, run_id)
    assert step.tab == "runs"
    assert "press “Evaluate”" in step.text
    known = evaluation_request.Evaluation(jobs.JobState(status="done"), card="measured")
    monkeypatch.setattr(evaluation_request, "read_evaluation", lambda _: known)
    assert next_step.next_step(dataset_id, VALUES, run_id).tab == "chat"


def test_other_pairs_than_the_run_s_are_there_to_train_on(tmp_path):
    run_id = made_run("finished", adapter=True)
    path = tmp_path / "x.csv"
    path.write_text("prompt,chosen,rejected\na,b,c\n")
    other = uploads.keep_dataset(path, "x.csv")
    assert next_step.next_step(other, VALUES, run_id).tab == "train"


def test_the_queue_is_said():
    made_run("queued")
    assert next_step.next_step("", VALUES, "").tab == "runs"


def test_a_run_that_is_gone_is_no_next_step():
    assert next_step.next_step("", VALUES, "20200101-000000-aaaa").tab == "data"


def test_names_of_runs_are_text():
    run_id = made_run("finished", adapter=True, name="<img src=x>")
    assert "<img" not in next_step.draw(next_step.next_step("", VALUES, run_id))


def test_only_another_line_is_sent():
    view = object()
    first = next_step.look(view, ["", "", *VALUES], "")
    assert next_step.look(view, ["", "", *VALUES], first[view]) is None
