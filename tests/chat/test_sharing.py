"""The chat beside a run or a job on the same processor."""

import pytest

from orpo_qlora.chat import models as chat_models
from orpo_qlora.chat import server
from orpo_qlora.chat.client import Answers
from orpo_qlora.jobs import interactive
from orpo_qlora.ui.chat.turns import _note


@pytest.fixture
def chat(monkeypatch):
    """A chat whose base is on the processor, and the priorities that it took."""
    taken = []
    monkeypatch.setattr(server, "give_way", taken.append)  # not for this process
    monkeypatch.setattr(chat_models.LoadedPolicies, "device", "cpu")
    chat = server.Chat("token", idle_seconds=60)
    chat.taken = taken
    return chat


def test_beside_a_run_it_says_so_in_one_line_at_low_priority(run, chat):
    assert (chat._note(), chat.taken) == ("", [])
    chat._share_processor_with(run)
    assert chat._note() == "a training run shares the processor: answers are slow"
    assert chat.taken == [server.NICENESS]
    chat._share_processor_with(None)
    assert chat._note() == ""


def test_beside_a_job_it_names_the_job_that_pauses(chat):
    lock = interactive._job_file()
    with server.storage.FileLock(lock):
        lock.write_text("an evaluation")
        assert chat._note() == "an evaluation pauses until this answer ends"
        with chat._pausing_jobs():
            assert interactive.is_answering()
    assert not interactive.is_answering()
    assert chat._note() == ""


def test_a_gpu_is_shared_with_no_processor(run, chat, monkeypatch):
    monkeypatch.setattr(chat_models.LoadedPolicies, "device", "cuda")
    chat._share_processor_with(run)
    assert (chat._note(), chat.taken) == ("", [])
    with chat._pausing_jobs():
        assert not interactive.is_answering()


def test_the_page_shows_the_note_beside_the_throughput():
    answers = Answers(("hi",), note=server.SHARED, tokens_per_second=2.0)
    assert _note(answers).endswith(f" · {server.SHARED}")


def test_a_rate_is_shown_from_the_second_token():
    assert "tokens/s" not in _note(Answers(("hi",)))
