"""Faults while a judge is asked: kill -9 and a full disk, with the real program."""

import json
import threading

import pytest
from judges import judging

from orpo_qlora.data.messages import Message
from orpo_qlora.evaluation.answers.kept import AnswerSampling
from orpo_qlora.evaluation.answers.prompts import Prompt, PromptSet
from orpo_qlora.evaluation.judge.kept import KeptReplies
from orpo_qlora.evaluation.judge.settings import JudgeSettings
from orpo_qlora.evaluation.suite import request as suite_request
from orpo_qlora.evaluation.suite.request import SuiteRequest
from orpo_qlora.jobs import job

PROMPTS = PromptSet(
    name="made",
    prompts=tuple(
        Prompt(id=str(number), opening=(Message("user", f"Question {number}?"),))
        for number in range(6)
    ),
)


@pytest.fixture
def request_to(copied_run):
    """The request of an evaluation by the judge at an address."""

    def make(address):
        return SuiteRequest(
            adapters=suite_request.adapters_of([copied_run]),
            prompts=PROMPTS,
            sampling=AnswerSampling(max_tokens=4),
            parts=("judge",),
            judge=JudgeSettings(base_url=address, model="judge", parallel=2),
        )

    return make


def kept_questions(request):
    path = KeptReplies(request.judge).path
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["question"] for line in lines]


def complete(request, judge, before):
    """Finish an evaluation; every question without a kept reply is asked once."""
    asked = len(judge.asked)
    found = suite_request.wait_for(request, lambda _: None)
    assert found.part("judge").figures
    questions = kept_questions(request)
    assert questions[: len(before)] == before
    assert len(questions) == len(set(questions)) == len(before) + len(judge.asked) - asked


def test_a_kill_while_the_judge_is_asked_loses_only_the_questions_under_way(request_to, wait_for):
    released = threading.Event()

    def hangs(content, number):
        if number > 4:
            released.wait(60)
        return "VERDICT: A"

    with judging(hangs) as judge:
        request = request_to(judge.address)
        suite_request.JOB.ask(request)
        wait_for(lambda: len(judge.asked) == 6)
        process = job._started[suite_request.JOB.paths(request).folder]
        process.kill()
        process.wait()
        released.set()
        assert suite_request.JOB.read(request).state.status == "lost"
        before = kept_questions(request)
        assert len(before) == 4
        complete(request, judge, before)


def test_a_full_disk_while_the_judge_is_asked_keeps_the_replies_before(
    request_to, inject, wait_for
):
    with judging(lambda content, number: "VERDICT: A") as judge:
        request = request_to(judge.address)
        program = "orpo_qlora.evaluation.suite.program"
        inject(module=program, act="full", op="write", path="/verdicts/", n=4)
        suite_request.JOB.ask(request)
        wait_for(lambda: not suite_request.JOB.read(request).state.is_busy)
        state = suite_request.JOB.read(request).state
        assert (state.status, state.error.slug) == ("failed", "disk-full")
        assert "everything written before is kept" in state.error.hint
        before = kept_questions(request)
        assert len(before) == 3
        inject()
        complete(request, judge, before)
