"""Background jobs yield to a chat answer; the chat's side is held by a real process."""

import os
import subprocess
import sys
import threading
import time

import pytest

from orpo_qlora.jobs import interactive

PATIENCE_SECONDS = 60
ANSWER = """
import sys, time
from orpo_qlora.jobs import interactive
with interactive.answering():
    print("answering", flush=True)
    time.sleep(600)
"""
JOB = """
import os, sys, time
from orpo_qlora.jobs import interactive
interactive.work_behind_answers("an evaluation")
print("working", flush=True)
while True:
    interactive.wait_for_answer()
    print(os.getpriority(os.PRIO_PROCESS, 0), flush=True)
    time.sleep(0.05)
"""


@pytest.fixture(autouse=True)
def not_given_up():
    interactive._given_up.clear()


@pytest.fixture
def start():
    """Run code in a process of its own that has printed its first line."""
    started = []

    def begin(code):
        program = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # priority is weighed by session
        )
        started.append(program)
        assert program.stdout.readline()
        return program

    yield begin
    for program in started:
        program.kill()
        program.wait(PATIENCE_SECONDS)
        program.stdout.close()


def wait_until(is_true):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_without_an_answer_a_job_does_not_wait(own_home):
    assert interactive.wait_for_answer() < interactive.POLL_SECONDS
    assert interactive.running_job() == ""


def test_a_job_pauses_while_the_chat_answers_and_continues_when_it_dies(start):
    program = start(ANSWER)
    waited = []
    job = threading.Thread(target=lambda: waited.append(interactive.wait_for_answer()))
    job.start()
    job.join(3 * interactive.POLL_SECONDS)
    assert job.is_alive()
    program.kill()
    job.join(PATIENCE_SECONDS)
    assert waited[0] >= 2 * interactive.POLL_SECONDS


def test_a_chat_that_hangs_stops_a_job_once_and_not_at_every_pair(start, monkeypatch):
    program = start(ANSWER)
    monkeypatch.setattr(interactive, "MOST_SECONDS", 0.3)
    assert interactive.wait_for_answer() >= 0.3
    assert interactive.wait_for_answer() == 0
    program.kill()
    wait_until(lambda: not interactive.is_answering())
    interactive.wait_for_answer()
    start(ANSWER)
    assert interactive.wait_for_answer() >= 0.3, "the next answer is waited for again"


def test_the_chat_can_name_the_job_which_gets_low_priority_at_the_first_answer(start):
    job = start(JOB)
    assert interactive.running_job() == "an evaluation"
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert int(job.stdout.readline()) == own
    with interactive.answering():
        wait_until(lambda: os.getpriority(os.PRIO_PROCESS, job.pid) == 19)
    job.kill()
    wait_until(lambda: interactive.running_job() == "")
