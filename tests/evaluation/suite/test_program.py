"""Base and runs answer the same prompts once, whatever interrupts them."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
from files import assistant, user

from orpo_qlora.data.messages import Message
from orpo_qlora.errors import Busy, InputError
from orpo_qlora.evaluation.answers.generate import Speaker, answer_batch
from orpo_qlora.evaluation.answers.kept import AnswerSampling, KeptAnswers
from orpo_qlora.evaluation.answers.prompts import Prompt, held_out_prompts, read_prompts
from orpo_qlora.evaluation.suite import answer_part, figures, results, table
from orpo_qlora.evaluation.suite import request as suite_request
from orpo_qlora.evaluation.suite.figures import Figure, PerAnswer
from orpo_qlora.evaluation.suite.request import SuiteRequest
from orpo_qlora.jobs import job
from orpo_qlora.models import loading
from orpo_qlora.models.generation.sampling import BASE
from orpo_qlora.runs import store
from orpo_qlora.runs.curves.intervals import Interval
from orpo_qlora.runs.process import training_setup

SAMPLING = AnswerSampling(max_tokens=12, samples=2, seed=3)


def request_of(run, *, sampling=SAMPLING, prompts=None, **others):
    prompts = prompts or held_out_prompts(run)
    adapters = suite_request.adapters_of([run])
    return SuiteRequest(adapters=adapters, prompts=prompts, sampling=sampling, **others)


def many_prompts(tmp_path, count):
    path = tmp_path / "many.csv"
    path.write_text("prompt\n" + "".join(f"Question {i}?\n" for i in range(count)))
    return read_prompts(path)


def test_base_and_run_answer_the_same_prompts_as_the_plain_model_does(copied_run):
    request = request_of(copied_run)
    found = suite_request.wait_for(request, lambda _: None)
    base, tuned = found.systems
    assert (base.name, base.run, tuned.run) == ("base", "", copied_run.id)
    assert (tuned.opponent, tuned.adapter_sha256) == ("base", request.adapters[0].sha256)
    given = [results.answers_of(one) for one in found.systems]
    assert [len(one) for one in given] == [2 * len(request.prompts.prompts)] * 2
    assert given[0] != given[1]
    # One conversation alone, answered by the model as a chat would load it.
    loaded = training_setup.load_base(copied_run.trained_config)
    policy = loading.attach_saved_adapter(loaded.model, copied_run.paths.adapter, "tuned")
    prompt = request.prompts.prompts[0]
    for adapter, answers in zip((BASE, "tuned"), given, strict=True):
        speaker = Speaker(policy, loaded.tokenizer, adapter)
        (alone,) = answer_batch(speaker, [prompt], SAMPLING.of_sample(1), 1)
        assert alone == answers[prompt.key, 1]


def test_a_killed_evaluation_continues_and_answers_nothing_twice(copied_run, tmp_path):
    request = request_of(
        copied_run,
        prompts=many_prompts(tmp_path, 32),
        sampling=AnswerSampling(max_tokens=16, samples=2),
    )
    suite_request.JOB.ask(request)
    paths = suite_request.JOB.paths(request)
    folder = paths.folder.parents[1] / "answers"
    deadline = time.monotonic() + 60
    while not any(folder.glob("*.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process = job._started[paths.folder]
    process.kill()
    process.wait()
    state = suite_request.JOB.read(request).state
    assert state.status == "lost"
    assert "answers given so far are kept" in state.error.hint
    (file,) = folder.glob("*.jsonl")
    before = file.read_bytes()
    assert len(before.splitlines()) < 2 * 32
    found = suite_request.wait_for(request, lambda _: None)
    for system in found.systems:
        lines = KeptAnswers(system.answers).path.read_bytes().splitlines()
        keys = {(one["prompt"], one["sample"]) for one in map(json.loads, lines)}
        assert len(lines) == len(keys) == 2 * 32
    assert KeptAnswers(found.systems[0].answers).path.read_bytes().startswith(before)


def test_more_samples_and_other_prompts_reuse_kept_answers(copied_run):
    first = request_of(copied_run, sampling=SAMPLING.model_copy(update={"samples": 1}))
    before = suite_request.wait_for(first, lambda _: None)
    files = [KeptAnswers(one.answers).path for one in before.systems]
    contents = [path.read_bytes() for path in files]
    after = suite_request.wait_for(request_of(copied_run), lambda _: None)
    assert [one.answers for one in after.systems] == [one.answers for one in before.systems]
    for path, content in zip(files, contents, strict=True):
        assert path.read_bytes().startswith(content)
        assert len(path.read_bytes().splitlines()) == 2 * len(content.splitlines())


def test_parts_are_added_to_what_is_measured(copied_run, tiny_model):
    first = request_of(copied_run, embedder=str(tiny_model))
    suite_request.wait_for(first, lambda _: None)
    more = first.model_copy(update={"parts": ("answers", "diversity", "guard")})
    assert suite_request.JOB.paths(more) == suite_request.JOB.paths(first)
    found = suite_request.wait_for(more, lambda _: None)
    assert [part.part for part in found.parts] == ["answers", "diversity", "guard"]
    by = {(one.measure, one.system): one.interval.value for one in found.figures}
    tuned = found.systems[1].name
    assert -1 <= by["per_input", "base"] <= 1
    assert by["kl_prompts", tuned] > 0
    wanted = by["perplexity", tuned] / by["perplexity", "base"]
    assert by["perplexity_ratio", tuned] == pytest.approx(wanted, rel=1e-6)
    assert all(one.interval.low <= one.interval.value <= one.interval.high
               for one in found.figures)  # fmt: skip


def test_a_second_turn_sees_the_first_answer(copied_run):
    loaded = training_setup.load_base(copied_run.config)
    speaker = Speaker(loaded.model, loaded.tokenizer, BASE)
    opening = held_out_prompts(copied_run).prompts[0].opening
    two = Prompt(id="1", opening=opening, followups=("And then?",))
    one = Prompt(id="2", opening=opening)
    sampling = SAMPLING.of_sample(0)
    answers = answer_batch(speaker, [two, one], sampling, 0)
    assert [len(answer.texts) for answer in answers] == [2, 1]
    more = (assistant(answers[0].texts[0]), user("And then?"))
    history = (*opening, *(Message(**one) for one in more))
    (again,) = answer_batch(speaker, [Prompt(id="3", opening=history)], sampling, 0)
    assert again.texts[0] == answers[0].texts[1]


def test_the_command_line_shows_one_table_and_writes_the_answers(copied_run, tmp_path):
    folder = tmp_path / "out"
    command = [sys.executable, "-m", "orpo_qlora.cli.main", "evaluate", copied_run.id]
    options = ["--measure", "answers", "--max-tokens", "4", "--max-prompts", "3"]
    done = subprocess.run(
        [*command, *options, "--out", str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "3 prompts" in done.stdout
    assert "Tokens an answer" in done.stdout
    rows = json.loads((folder / "model_outputs" / "base.json").read_text(encoding="utf-8"))
    assert len(rows) == 3
    assert len((folder / "results.csv").read_text(encoding="utf-8").splitlines()) == 1 + 2 * 4
    for options, text in (
        (["--measure", "taste"], "no part “taste”"),
        (["--samples", "2"], "--samples has no effect without --measure"),
    ):
        wrong = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
        assert wrong.returncode == 2
        assert text in wrong.stderr


def test_an_adapter_that_changes_is_refused(copied_run):
    request = request_of(copied_run)
    changed = request.model_copy(
        update={"adapters": (request.adapters[0].model_copy(update={"sha256": "0" * 64}),)}
    )
    with pytest.raises(Exception, match="changed since the evaluation was requested"):
        suite_request.wait_for(changed, lambda _: None)


def test_runs_without_an_adapter_are_refused(copied_run):
    (copied_run.paths.adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match="no final adapter"):
        suite_request.adapters_of([store.read_run(copied_run.paths)])
    with pytest.raises(InputError, match="no run to evaluate"):
        suite_request.adapters_of([])


def test_it_gives_way_to_runs(copied_run):
    assert isinstance(suite_request.JOB.refusal(copied_run), Busy)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("", 0), ("a b c", 0), ("a b c d", 0), ("a b c d a b c d", 1 - 4 / 5), ("no " * 9, 1 - 1 / 6)],
)
def test_repetition_counts_repeated_four_grams(text, wanted):
    assert answer_part.repetition(text) == pytest.approx(wanted)


def figure(system, low, value, high, measure="length"):
    return Figure(measure=measure, system=system, interval=Interval(value, low, high), count=9)


def test_the_best_is_bold_only_where_intervals_part():
    apart = [figure("a", 0.1, 0.2, 0.3, "ended"), figure("b", 0.4, 0.5, 0.6, "ended")]
    near = [figure("a", 0.1, 0.2, 0.45, "empty"), figure("b", 0.4, 0.5, 0.6, "empty")]
    low = [figure("a", 0.1, 0.2, 0.3, "repetition"), figure("b", 0.4, 0.5, 0.6, "repetition")]
    neither = [figure("a", 1, 2, 3), figure("b", 4, 5, 6)]
    best = figures.best_systems([*apart, *near, *low, *neither])
    assert best == {("ended", "", ""): "b", ("repetition", "", ""): "a"}


def test_every_category_has_its_own_figure():
    values = PerAnswer(
        "length",
        "run",
        np.array([1.0, 3.0, 10.0]),
        np.array([0, 1, 2]),
        ["math", "math", "writing"],
    ).figures()
    means = {one.category: (one.interval.value, one.count) for one in values}
    assert means == {"": (pytest.approx(14 / 3), 3), "math": (2.0, 2), "writing": (10.0, 1)}


def test_cells_of_a_table_cannot_be_formulas():
    assert table._safe("=1+1") == "'=1+1"
