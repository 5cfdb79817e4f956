import pytest
from form_values import values_of

from orpo_qlora.config import build_config
from orpo_qlora.data.examples import example_path
from orpo_qlora.data.pairs import Split, load_preferences
from orpo_qlora.errors import DataError, DiskFull
from orpo_qlora.evaluation import request as evaluation_request
from orpo_qlora.jobs import estimation
from orpo_qlora.jobs import job as jobs
from orpo_qlora.runs import store
from orpo_qlora.runs.state import ErrorCard, RunState
from orpo_qlora.ui import next_step
from orpo_qlora.ui.data import uploads
from orpo_qlora.ui.next_step import PageState, Step
from orpo_qlora.ui.parts import cards
from orpo_qlora.ui.parts.guard import card_of
from orpo_qlora.ui.train import estimate_panel

VALUES = values_of(build_config({}))


def step_for(dataset_id="", values=VALUES, run_id="", **cards):
    state = PageState(run_id=run_id, dataset_id=dataset_id, settings=values, **cards)
    return next_step.next_step(state)


@pytest.fixture
def dataset_id():
    return uploads.store_upload(example_path("hello"), "hello.csv")


def made_run(status, *, adapter=False, name="mine", held_out=(), error=None):
    dataset = load_preferences(example_path("hello"))
    split = Split(tuple(dataset.pairs), tuple(held_out))
    paths = store.create_run(build_config({"name": name}), split, dataset.report)
    store.write_state(paths, RunState(status=status, created_at=1.0, error=error))
    if adapter:
        paths.adapter.mkdir()
        (paths.adapter / "adapter_model.safetensors").touch()
    return paths.id


def test_a_new_visitor_is_led_to_the_data():
    step = step_for()
    assert step.tab == "data"
    assert "example" in step.text


def test_pairs_lead_to_training(dataset_id):
    step = step_for(dataset_id)
    assert step.tab == "train"
    assert "press “Estimate”" in step.text
    request = estimate_panel.request_of(dataset_id, VALUES)
    state = estimation.paths_of(request).state
    state.parent.mkdir(parents=True)
    state.write_text(jobs.JobState(status="done").model_dump_json())
    assert step_for(dataset_id).text == "press “Start training”."


def test_a_wrong_setting_comes_first_and_is_named(dataset_id):
    wrong = [-1 if value == 0.0002 else value for value in VALUES]
    step = step_for(dataset_id, wrong)
    assert step.tab == "train"
    assert step.text.startswith("correct the setting learning_rate = -1: ")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            b"frage,gut,schlecht\na,b,c\n",
            "choose the prompt, chosen and rejected columns, then press “Apply”.",
        ),
        (
            b"prompt,chosen,rejected\na,b,c\na,b,c,d\n",
            "fix row 2 (line 3) in your file and upload it again, or press “Drop broken rows”.",
        ),
        (
            "prompt,chosen,rejected\nça,été,né\n".encode("cp1252"),
            "press “Read as …” under the text that reads correctly.",
        ),
    ],
)
def test_a_file_with_a_question_leads_to_its_answer(tmp_path, content, text):
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    assert step_for(uploads.store_upload(path, "x.csv")) == Step(text, "data")


def test_a_refused_file_leads_to_its_remedy_and_not_to_an_example(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("prompt,chosen,rejected\na,same,same\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        uploads.store_upload(path, "x.csv")
    step = step_for(data_card=card_of(caught.value))
    assert step.tab == "data"
    assert step.text[1:] == caught.value.hint[1:]
    assert "example" not in step.text


def test_an_error_without_a_hint_still_names_a_way_out():
    assert "upload it again" in step_for(data_card=cards.error_card("No.")).text
    assert "example" in step_for(data_card=cards.busy("Reading …")).text


def test_a_start_that_failed_leads_to_its_remedy(dataset_id):
    full = DiskFull("The disk is full.", hint="Free some <space>.")
    step = step_for(dataset_id, train_card=card_of(full))
    assert step == Step("free some <space>.", "train")
    assert "<space>" not in next_step.render(step)


def test_an_estimate_that_failed_leads_to_its_remedy(dataset_id, monkeypatch):
    error = ErrorCard(slug="model", message="No model.", hint="Choose another base model.")
    failed = estimation.Answer(jobs.JobState(status="failed", error=error), None)
    monkeypatch.setattr(estimate_panel, "requested", lambda *_: failed)
    assert step_for(dataset_id) == Step("choose another base model.", "train")


def test_a_failed_run_leads_to_its_remedy():
    error = ErrorCard(slug="out-of-memory", message="Full.", hint="Lower “Longest sequence”.")
    step = step_for(run_id=made_run("failed", error=error))
    assert step == Step("“mine” failed. Lower “Longest sequence”.", "runs")


@pytest.mark.parametrize(
    ("status", "adapter", "tab", "words"),
    [
        ("finished", True, "chat", "chat with “mine”"),
        ("stopped", True, "chat", "chat with “mine”"),
        ("stopped", False, "runs", "resume it"),
        ("failed", False, "runs", "“mine” failed. Read its log, then resume it."),
        ("failed", True, "runs", "“mine” failed. Read its log, then resume it."),
    ],
)
def test_a_run_that_is_over_leads_on(dataset_id, status, adapter, tab, words):
    run_id = made_run(status, adapter=adapter)
    for chosen in ("", dataset_id):
        step = step_for(chosen, run_id=run_id)
        assert step.tab == tab
        assert words in step.text


def test_a_run_with_held_out_pairs_leads_to_its_evaluation(dataset_id, monkeypatch):
    pairs = load_preferences(example_path("hello")).pairs
    run_id = made_run("finished", adapter=True, held_out=pairs[:2])
    step = step_for(dataset_id, run_id=run_id)
    assert step.tab == "runs"
    assert "press “Evaluate”" in step.text
    known = evaluation_request.Evaluation(jobs.JobState(status="done"), card="measured")
    monkeypatch.setattr(evaluation_request, "read_evaluation", lambda _: known)
    assert step_for(dataset_id, run_id=run_id).tab == "chat"


def test_other_pairs_than_the_run_s_are_there_to_train_on(tmp_path):
    run_id = made_run("finished", adapter=True)
    path = tmp_path / "x.csv"
    path.write_text("prompt,chosen,rejected\na,b,c\n")
    other = uploads.store_upload(path, "x.csv")
    assert step_for(other, run_id=run_id).tab == "train"


def test_a_queued_run_comes_first():
    made_run("queued")
    assert step_for().tab == "runs"


def test_a_run_that_is_gone_is_no_next_step():
    assert step_for(run_id="20200101-000000-aaaa").tab == "data"


def test_names_of_runs_are_text():
    run_id = made_run("finished", adapter=True, name="<img src=x>")
    assert "<img" not in next_step.render(step_for(run_id=run_id))


def test_only_another_line_is_sent():
    view = object()
    state = PageState.of(["", None, None, "", *VALUES])
    first = next_step.refresh(view, "", state)
    assert next_step.refresh(view, first[view], state) is None
