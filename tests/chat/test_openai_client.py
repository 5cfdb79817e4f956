"""The endpoint as the `openai` client uses it, with the real chat process."""

import socket
import subprocess
import sys
import time

import openai
import pytest
from tuned import make_finished_run

from orpo_qlora.chat import client as chat

WAIT_SECONDS = 120


@pytest.fixture
def endpoint(tiny_model, own_home):
    """The address of a server for a finished run, and the run."""
    run = make_finished_run(tiny_model)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "orpo_qlora.chat.openai_api", run.id, str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.2)
    yield f"http://127.0.0.1:{port}/v1", run
    server.terminate()
    server.wait()
    chat.release()


def test_base_and_tuned_answer_whole_and_streamed(endpoint):
    address, run = endpoint
    client = openai.OpenAI(base_url=address, api_key="none", max_retries=0)
    names = [model.id for model in client.models.list()]
    assert names == ["base", run.id]
    messages = [{"role": "user", "content": "hello"}]
    texts = {}
    for name in names:
        asked = {"model": name, "messages": messages, "max_tokens": 6, "temperature": 0}
        answer = client.chat.completions.create(**asked)
        whole = answer.choices[0]
        *events, last = client.chat.completions.create(
            **asked, stream=True, stream_options={"include_usage": True}
        )
        pieces = [event.choices[0].delta.content or "" for event in events]
        assert "".join(pieces) == whole.message.content
        assert last.usage == answer.usage
        assert 1 <= last.usage.completion_tokens <= 6
        assert last.usage.prompt_tokens > 1
        assert whole.finish_reason in {"stop", "length"}
        texts[name] = whole.message.content
        middle = whole.message.content[2:4]
        ended = client.chat.completions.create(**asked, stop=middle, frequency_penalty=0)
        assert ended.choices[0].message.content == whole.message.content.partition(middle)[0]
        assert ended.choices[0].finish_reason == "stop"
    assert texts["base"] != texts[run.id]
    with pytest.raises(openai.NotFoundError, match="There is no model other"):
        client.chat.completions.create(model="other", messages=messages)
