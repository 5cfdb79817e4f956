"""The panel that evaluates answers: its request, what it offers, progress, results, downloads."""

import json
import tempfile
from dataclasses import fields

import pytest

from orpo_qlora import storage
from orpo_qlora.errors import InputError, UnknownRun
from orpo_qlora.evaluation.answers.kept import Answer, AnswerSampling, KeptAnswers
from orpo_qlora.evaluation.suite import request as suite_request
from orpo_qlora.evaluation.suite.duration import START_SECONDS, expected_seconds
from orpo_qlora.evaluation.suite.figures import Figure
from orpo_qlora.evaluation.suite.results import (
    Answering,
    PartResult,
    SuiteResults,
    System,
    write_results,
)
from orpo_qlora.jobs.job import JobState
from orpo_qlora.runs.curves.intervals import Interval
from orpo_qlora.runs.state import ErrorCard
from orpo_qlora.ui.evaluate import form, panel
from orpo_qlora.ui.evaluate.form import Inputs
from orpo_qlora.ui.evaluate.panel import EvaluatePanel


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def inputs(run, **values):
    usual = {
        **{"run": run.id, "others": [], "parts": ["answers"], "prompts": "", "max_prompts": 3},
        **{"samples": 2, "max_tokens": 16, "reward_model": "", "judge_url": "", "judge_model": ""},
    }
    return Inputs(**usual | values)


def parts():
    """The components' names in their place: a page would open event loops."""
    named = {field.name: field.name for field in fields(EvaluatePanel)}
    return EvaluatePanel(**named | {"downloads": {kind: kind for kind in panel.KINDS}})


def with_results(run):
    """Leave the results of an evaluation on disk; return its request."""
    request = form.request_of(inputs(run))
    paths = suite_request.JOB.paths(request)
    paths.folder.mkdir()
    storage.write_whole(paths.request, request.model_dump_json())
    storage.write_whole(paths.state, JobState(status="done").model_dump_json())
    systems = (
        System(name="base", model="m", answers="a" * 32),
        System(name="<b>run", run=run.id, model="m", answers="b" * 32, opponent="base"),
    )
    figure = Figure(measure="ended", system="<b>run", interval=Interval(0.5, 0.4, 0.6), count=6)
    write_results(
        paths,
        SuiteResults(
            made_at=0,
            prompts=request.prompts,
            sampling=AnswerSampling(),
            systems=systems,
            parts=(PartResult(part="answers", figures=(figure,), seconds=0),),
        ),
    )
    return request


def test_the_form_makes_the_request_of_the_command_line(copied_run):
    request = form.request_of(inputs(copied_run))
    assert [one.run for one in request.adapters] == [copied_run.id]
    assert len(request.prompts.prompts) == 3
    assert request.sampling == AnswerSampling(max_tokens=16, samples=2)
    own = form.request_of(inputs(copied_run, prompts="Why?\n\n How? \nWhy?"))
    assert [prompt.text for prompt in own.prompts.prompts] == ["Why?", "How?"]
    judged = form.request_of(
        inputs(copied_run, judge_url=" http://localhost/v1 ", judge_model="m", parts=["judge"])
    )
    assert judged.judge.base_url == "http://localhost/v1"


def test_the_page_sends_the_judge_s_key_to_one_address_alone(copied_run, monkeypatch):
    typed = inputs(copied_run, judge_url="https://a.example/v1", judge_model="m", parts=["judge"])
    monkeypatch.setenv("ORPO_QLORA_JUDGE_KEY", "secret")
    with pytest.raises(InputError, match="only to the address in ORPO_QLORA_JUDGE_URL"):
        form.request_of(typed)
    monkeypatch.setenv("ORPO_QLORA_JUDGE_URL", "https://b.example/v1")
    with pytest.raises(InputError, match="only to the address"):
        form.request_of(typed)
    monkeypatch.setenv("ORPO_QLORA_JUDGE_URL", "https://a.example/v1/")
    assert form.request_of(typed).judge.base_url == "https://a.example/v1"


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"parts": []}, "Nothing is selected"),
        ({"parts": ["taste"]}, "Nothing is selected"),
        ({"samples": 0}, "1 to 64"),
        ({"max_tokens": "many"}, "not a whole number"),
        ({"max_prompts": None}, "not a whole number"),
        ({"others": ["../../etc"]}, "no run"),
    ],
)
def test_wrong_inputs_are_named(copied_run, values, text):
    with pytest.raises((InputError, UnknownRun), match=text):
        form.request_of(inputs(copied_run, **values))


def test_it_offers_what_is_possible_now(copied_run, monkeypatch):
    monkeypatch.setattr(form.embeddings, "is_installed", lambda name: False)
    text = form.offer(inputs(copied_run, parts=["answers", "diversity"]))
    assert "3 prompts to answer (held-out prompts of" in text
    assert "orpo-qlora[eval]" in text
    assert "Estimate: about " in text
    judge = {"judge_url": "http://localhost/v1", "judge_model": "m", "parts": ["judge"]}
    assert "at most 6 questions to the judge" in form.offer(inputs(copied_run, **judge))
    assert "Nothing is selected" in form.offer(inputs(copied_run, parts=[]))
    copied_run.paths.held_out.write_text("")
    assert "type prompts of your own" in form.offer(inputs(copied_run))
    assert "1 prompt to answer (own prompts)" in form.offer(inputs(copied_run, prompts="Why?"))
    (copied_run.paths.adapter / "adapter_model.safetensors").unlink()
    assert "once the run has ended" in form.offer(inputs(copied_run))


def test_a_page_that_was_just_opened_sends_no_texts(copied_run):
    untouched = dict.fromkeys(("prompts", "reward_model", "judge_url", "judge_model"))
    values = inputs(copied_run, **untouched, prompts_key=None)
    opened = Inputs.of(copied_run.id, [getattr(values, one.name) for one in fields(Inputs)[1:]])
    assert opened == inputs(copied_run)
    assert "3 prompts to answer" in form.offer(opened)


def test_more_answers_and_parts_take_longer(copied_run):
    def seconds(**values):
        request = form.request_of(inputs(copied_run, **values))
        return max(0, expected_seconds(request, copied_run) - START_SECONDS)

    usual = seconds()
    assert seconds(samples=4) == pytest.approx(2 * usual)
    assert seconds(max_tokens=160) > 5 * usual
    assert seconds(parts=["answers", "guard"]) > usual
    assert seconds(parts=["reward"]) > seconds(parts=["reward"], reward_model="owner/model") > usual
    copied_run.paths.metrics.write_text("")
    assert seconds() == 0


def test_answers_that_are_kept_take_no_time(copied_run):
    request = form.request_of(inputs(copied_run))

    def seconds(of=request):
        return expected_seconds(of, copied_run) - START_SECONDS

    whole = seconds()
    (adapter,) = request.adapters
    base = System(name="base", model="m", answers="base-key")
    tuned = base.model_copy(
        update={"name": adapter.name, "run": adapter.run, "answers": "tuned-key"}
        | {"opponent": "base", "adapter_sha256": adapter.sha256}
    )
    paths = suite_request.JOB.paths(request)
    paths.folder.mkdir()
    noted = Answering(sampling=request.sampling, systems=(base, tuned))
    paths.answering.write_text(noted.model_dump_json())
    assert seconds() == whole
    answers = [
        Answer(prompt=prompt.key, sample=sample, texts=("a",), tokens=(1,), ended=(True,))
        for prompt in request.prompts.prompts
        for sample in range(2)
    ]
    KeptAnswers("base-key").add(answers)
    assert seconds() == pytest.approx(whole / 2)
    KeptAnswers("tuned-key").add(answers)
    assert seconds() == 0
    # More samples of the same kind add to them; another temperature starts over.
    more = request.sampling.model_copy(update={"samples": 3})
    assert seconds(request.model_copy(update={"sampling": more})) == pytest.approx(whole / 2)
    other = request.sampling.model_copy(update={"temperature": 0.1})
    assert seconds(request.model_copy(update={"sampling": other})) == whole


def test_an_uploaded_file_gives_the_prompts(copied_run, tmp_path):
    file = tmp_path / "mt.jsonl"
    rows = [
        {"question_id": 1, "category": "math", "turns": ["What is 2 + 2?", "And doubled?"]},
        {"question_id": 2, "category": "writing", "turns": ["Write a line."]},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    key = form.upload(file)
    request = form.request_of(inputs(copied_run, prompts_key=key))
    assert request.prompts.name == "mt.jsonl"
    assert request.prompts.categories == ("math", "writing")
    assert request.prompts.prompts[0].followups == ("And doubled?",)
    with pytest.raises(InputError, match="a file of prompts is chosen"):
        form.request_of(inputs(copied_run, prompts_key=key, prompts="Why?"))
    with pytest.raises(InputError, match="no longer here"):
        form.request_of(inputs(copied_run, prompts_key="../../etc/passwd"))
    file.write_text('{"text": "no prompt"}\n')
    with pytest.raises(InputError, match="no column of prompts"):
        form.upload(file)


def test_results_are_found_again_and_downloaded(copied_run):
    request = with_results(copied_run)
    key = suite_request.latest_of(copied_run)
    assert key == suite_request.JOB.key(request)
    updates = panel.shown_updates(parts(), key)
    assert "&lt;b&gt;run" in updates["results"]
    assert "<b>run" not in updates["results"]
    assert updates["status"] == ""
    assert updates["json"]["visible"]
    assert json.loads(panel.make_file(key, "json").read_text())["systems"][0]["name"] == "base"
    assert "ended" in panel.make_file(key, "csv").read_text()
    assert "<!doctype html>" in panel.make_file(key, "html").read_text()


def test_progress_and_errors_are_shown(copied_run):
    request = with_results(copied_run)
    paths = suite_request.JOB.paths(request)
    error = ErrorCard(slug="x", message="It <broke>.", hint="Try again.")
    state = JobState(status="failed", error=error)
    storage.write_whole(paths.state, state.model_dump_json())
    key = suite_request.JOB.key(request)
    shown = panel.shown_updates(parts(), key)
    assert "It &lt;broke&gt;." in shown["status"]
    working = JobState(status="working", phase="answering", done=3, total=9)
    storage.write_whole(paths.state, working.model_dump_json())
    with storage.FileLock(paths.lock):
        shown = panel.shown_updates(parts(), key)
        assert "Answering (3 of 9)" in shown["status"]
        assert shown["timer"]["active"]
        # What the page shows already is not sent again.
        assert panel.shown_updates(parts(), key, shown["seen"]) is None
        more = working.model_copy(update={"done": 4})
        storage.write_whole(paths.state, more.model_dump_json())
        progressed = panel.shown_updates(parts(), key, shown["seen"])
        assert set(progressed) == {"seen", "status", "timer"}
        found = suite_request.JOB.read(request).results
        write_results(paths, found.model_copy(update={"notes": ("new",)}))
        measured = panel.shown_updates(parts(), key, progressed["seen"])
        assert set(measured) == {"seen", "results", *panel.KINDS}
    assert panel.shown_updates(parts(), "f" * 32, measured["seen"])["results"] == ""


@pytest.mark.parametrize("key", ["", "../../runs", "a" * 32, "A" * 32])
def test_a_key_that_a_browser_makes_up_shows_nothing(key):
    assert panel.answer_with(key) is None
    with pytest.raises(InputError, match="no results"):
        panel.make_file(key, "json")
