"""A real OpenAI-compatible endpoint as judge: `transformers serve` with a tiny model."""

import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import httpx
import pytest
from tiny import make_endless_model

from orpo_qlora.evaluation.judge import endpoint, questions
from orpo_qlora.evaluation.judge.kept import ask_all
from orpo_qlora.evaluation.judge.settings import JudgeSettings

WAIT_SECONDS = 240
QUESTIONS = [
    questions.preference("Why is the sky blue?", "Air scatters blue light.", "It is a colour."),
    questions.grade((questions.Turn("Why is the sky blue?", "Air scatters blue light."),)),
]


@contextmanager
def served(folder):
    """Serve a model on the loopback interface; yields the endpoint's address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["serve", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    program = folder / "serve_model.py"
    program.write_text("from transformers.cli.transformers import app; app()\n", encoding="utf-8")
    process = subprocess.Popen([sys.executable, str(program), *arguments])
    try:
        _wait_until_ready(process, f"http://127.0.0.1:{port}/health")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def _wait_until_ready(process, address):
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail("transformers serve ended, see the captured output")
        try:
            if httpx.get(address, timeout=5).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.5)
    pytest.fail("transformers serve did not answer")


def test_transformers_serve_answers_as_a_judge(tmp_path, monkeypatch):
    monkeypatch.setattr(endpoint, "MOST_REPLY_TOKENS", 16)
    folder = make_endless_model(tmp_path / "tiny")
    with served(folder) as address:
        settings = JudgeSettings(base_url=address, model=str(folder), timeout_seconds=WAIT_SECONDS)
        replies = ask_all(QUESTIONS, settings, lambda *_: None)
    assert len(replies) == len(QUESTIONS)
    for reply in replies.values():
        assert reply.text.strip()
        assert reply.tokens_in > 50
        assert 0 < reply.tokens_out <= 16
    # Nothing listens any more: the replies are kept.
    assert ask_all(QUESTIONS, settings, lambda *_: None) == replies
