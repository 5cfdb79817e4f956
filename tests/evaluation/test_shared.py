"""An evaluation that several processes share gives the results of one process."""

import os
import signal
import time

import pytest
from gloo import processes_of, run_ranks

from orpo_qlora import storage
from orpo_qlora.data.messages import Message
from orpo_qlora.errors import ConfigError
from orpo_qlora.evaluation import measure, report_card
from orpo_qlora.evaluation import request as evaluation_request
from orpo_qlora.evaluation.answers import generate
from orpo_qlora.evaluation.answers.kept import AnswerSampling, KeptAnswers
from orpo_qlora.evaluation.answers.prompts import Prompt, PromptSet
from orpo_qlora.evaluation.suite import program, results
from orpo_qlora.evaluation.suite import request as suite_request
from orpo_qlora.evaluation.suite.request import SuiteJob, SuiteRequest
from orpo_qlora.jobs.shared import torchrun
from orpo_qlora.orpo.processes.ranks import ALONE
from orpo_qlora.runs.process.shared import process_count

WAIT_SECONDS = 120.0
SAMPLING = AnswerSampling(samples=2, max_tokens=6, seed=3)


def request_of(run, prompts, sampling=SAMPLING):
    made = (
        Prompt(id=str(n), opening=(Message("user", "why " * n),)) for n in range(1, prompts + 1)
    )
    return SuiteRequest(
        adapters=suite_request.adapters_of([run]),
        prompts=PromptSet(name="made", prompts=tuple(made)),
        sampling=sampling,
    )


def kept_answers(home):
    """Return the answers of every model, by its key, prompt and sample."""
    files = (home / "answers").glob("*.jsonl")
    return {path.stem: KeptAnswers(path.stem).read() for path in files}


def requested(job, request):
    """Return the files of a job that is requested but not started."""
    paths = job.paths(request)
    paths.folder.mkdir(mode=0o700)
    paths.request.write_text(job.question(request).model_dump_json())
    return paths


def test_several_processes_measure_and_answer_as_one_does(
    copied_run, own_home, tmp_path, monkeypatch
):
    monkeypatch.setattr(generate, "ROWS_CPU", 3)
    request = request_of(copied_run, 5)
    card_paths = requested(evaluation_request.JOB, copied_run)
    suite_paths = requested(suite_request.JOB, request)
    wanted = report_card.read_card(copied_run)
    program.make(suite_paths, ALONE)[1]()
    answers, figures = kept_answers(own_home), results.read_results(suite_paths).figures
    assert [len(one) for one in answers.values()] == [10, 10]
    report_card.file_of(copied_run.paths).unlink()
    suite_paths.results.unlink()
    for path in (own_home / "answers").iterdir():
        path.unlink()
    calls = []

    def evaluate(ranks):
        answer = generate.answer_batch

        def failing(*arguments):
            calls.append(len(arguments[1]))
            if ranks.rank == 1 and len(calls) == 2:
                raise MemoryError("injected")
            return answer(*arguments)

        monkeypatch.setattr(generate, "answer_batch", failing)
        measure.make(card_paths, ranks)[1]()
        program.make(suite_paths, ranks)[1]()
        return calls

    for sizes in run_ranks(2, tmp_path / "ranks", evaluate):
        # Prompts of one sample are in one batch; after the failure both processes take fewer.
        assert sizes[:2] in ([3, 3], [2, 2])
        assert set(sizes[2:]) == {1}
    assert kept_answers(own_home) == answers
    assert results.read_results(suite_paths).figures == figures
    card = report_card.read_card(copied_run)
    for name in ("base_chosen", "base_rejected", "tuned_chosen", "tuned_rejected"):
        expected = getattr(wanted.scores, name)
        assert getattr(card.scores, name) == pytest.approx(expected, abs=1e-5)
    assert card.scores.rows == wanted.scores.rows
    assert card.kl_base == pytest.approx(wanted.kl_base, rel=1e-4)
    assert card.tuned.accuracy == wanted.tuned.accuracy
    assert "The pairs were shared by 2 processes." in card.notes


def wait_for(condition, paths):
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, paths.log.read_text()
        time.sleep(0.05)


def test_a_killed_process_ends_the_evaluation_which_continues_with_what_is_kept(
    copied_run, own_home
):
    job = SuiteJob(processes=2)
    sampling = SAMPLING.model_copy(update={"samples": 64})
    request = request_of(copied_run, 8, sampling)
    job.ask(request)
    paths = job.paths(request)
    wait_for(lambda: any((own_home / "answers").glob("*.jsonl")), paths)
    first, second = processes_of(torchrun.RANK, paths.folder)
    os.kill(second.pid, signal.SIGKILL)
    killed_at = time.monotonic()
    wait_for(lambda: not job.read(request).state.is_busy, paths)
    assert time.monotonic() - killed_at < 15
    state = job.read(request).state
    assert state.status == "failed"
    assert "processes that share this job has ended" in state.error.message
    assert "kept so far" in state.error.hint
    wait_for(lambda: not first.is_running() and not storage.is_locked(paths.lock), paths)
    (kept,) = kept_answers(own_home).values()
    assert 0 < len(kept) < 8 * 64
    # Another number of processes continues.
    few = request.model_copy(update={"sampling": SAMPLING})
    found = suite_request.wait_for(few, lambda _: None)
    answers = results.answers_of(found.systems[0])
    assert answers.items() >= kept.items()


def gpus(monkeypatch, count):
    monkeypatch.setattr(process_count, "visible_gpus", lambda: count)


def test_an_evaluation_has_a_process_for_each_gpu_unless_told_otherwise(copied_run, monkeypatch):
    request = request_of(copied_run, 5)
    assert SuiteJob().process_count(request) == 1
    assert SuiteJob(3).process_count(request) == 3
    assert evaluation_request.EvaluationJob().process_count(copied_run) == 1
    with pytest.raises(ConfigError, match="processes is 6, and there are 5 prompts; a process"):
        SuiteJob(6).process_count(request)
    gpus(monkeypatch, 4)
    assert SuiteJob().process_count(request) == 4
    assert evaluation_request.EvaluationJob().process_count(copied_run) == 4
    with pytest.raises(ConfigError, match="this machine has 4 visible GPUs"):
        SuiteJob(5).process_count(request)
    gpus(monkeypatch, 8)
    assert SuiteJob().process_count(request) == 5


def test_the_number_of_processes_changes_nothing_that_is_kept(copied_run):
    request = request_of(copied_run, 5)
    assert SuiteJob(4).paths(request) == SuiteJob().paths(request)
