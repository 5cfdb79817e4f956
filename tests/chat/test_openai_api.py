"""The OpenAI-compatible endpoint, over a stand-in for the chat process."""

import json

import pytest
from starlette.testclient import TestClient

from orpo_qlora.chat import client, openai_api, openai_request
from orpo_qlora.chat.client import Answers
from orpo_qlora.errors import Busy


@pytest.fixture
def asked(monkeypatch):
    """What the chat process was asked; it answers in two pieces."""
    found = []

    def ask(columns, settings, question, base_of):
        found.append((columns[0], settings, base_of))
        yield Answers(("",), note="loading")
        yield Answers(("Good",), prompt_tokens=(7,))
        cut = frozenset({0}) if settings.max_tokens == 1 else frozenset()
        yield Answers(("Good day",), is_done=True, cut=cut, prompt_tokens=(7,), tokens=(3,))

    monkeypatch.setattr(client, "ask", ask)
    return found


@pytest.fixture
def web(copied_run):
    return TestClient(openai_api.Endpoint(copied_run).app(), base_url="http://127.0.0.1")


def question(model, **more):
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], **more}


def test_base_and_tuned_are_listed_and_answer(web, asked, copied_run):
    names = [model["id"] for model in web.get("/v1/models").json()["data"]]
    assert names == ["base", copied_run.id]
    for model, run in zip(names, ("", copied_run.id), strict=True):
        body = question(model, temperature=0, max_tokens=5, seed=3)
        answer = web.post("/v1/chat/completions", json=body).json()
        assert answer["choices"][0]["message"] == {"role": "assistant", "content": "Good day"}
        assert answer["choices"][0]["finish_reason"] == "stop"
        column, settings, base_of = asked.pop()
        assert (column.run, column.turns[0].content, base_of) == (run, "hi", copied_run.id)
        assert (settings.temperature, settings.max_tokens, settings.seed) == (0, 5, 3)


def test_a_stream_gives_the_pieces_and_an_end(web, asked):
    body = question("base", stream=True, max_tokens=1)
    lines = web.post("/v1/chat/completions", json=body).text.split("\n\n")
    assert lines[-2] == "data: [DONE]"
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    text = [event["choices"][0]["delta"].get("content", "") for event in events]
    assert text == ["", "Good", " day", ""]
    assert events[-1]["choices"][0]["finish_reason"] == "length"
    assert not any("usage" in event for event in events)


USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def test_tokens_are_counted_and_a_stream_sends_them_on_request(web, asked):
    whole = web.post("/v1/chat/completions", json=question("base")).json()
    assert whole["usage"] == USAGE
    body = question("base", stream=True, stream_options={"include_usage": True})
    lines = web.post("/v1/chat/completions", json=body).text.split("\n\n")
    *events, last = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    assert [event["usage"] for event in events] == [None] * len(events)
    assert (last["choices"], last["usage"]) == ([], USAGE)
    assert {event["id"] for event in events} == {last["id"]}


def test_every_request_has_a_seed_of_its_own_unless_it_gives_one(web, asked):
    for more in ({}, {"seed": None}, {"seed": 5}, {"seed": 5}, {"seed": -1}):
        assert web.post("/v1/chat/completions", json=question("base", **more)).is_success
    seeds = [settings.seed for _, settings, _ in asked]
    assert seeds[0] != seeds[1]
    assert seeds[2:] == [5, 5, 2**63 - 1]


def test_null_is_the_default_of_a_parameter(web, asked):
    nulls = dict.fromkeys(("temperature", "top_p", "max_tokens", "stream", "n", "user"))
    assert web.post("/v1/chat/completions", json=question("base", **nulls)).is_success
    assert asked[0][1].temperature == 0.7


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (question("other"), 404, "There is no model other"),
        (
            question("base", tools=[{"type": "function"}]),
            400,
            "“tools” has no effect here, so only",
        ),
        (question("base", top_logprobs=3), 400, "only 0 is accepted. Leave it out."),
        (question("base", audio={}), 400, "“audio” is not supported. Leave it out."),
        (question("base", temperature=9), 400, "“temperature” must be a number from 0 to 2."),
        (question("base", n=2), 400, "another seed"),
        (question("base", stop=["a", "b", "c", "d", "e"]), 400, "a list of at most 4 texts"),
        (question("base", stop=[1]), 400, "“stop” must be a text"),
        ({"model": "base", "messages": []}, 400, "“messages” must be a list of at least one"),
        ({"model": "base"}, 400, "“messages” is missing."),
        ({"model": "base", "messages": [{"role": "tool", "content": "x"}]}, 400, "“messages[0]”"),
        ({"model": "base", "messages": [{"role": "user", "content": [1]}]}, 400, "“messages[0]”"),
        ([], 400, "not a JSON object"),
    ],
)
def test_wrong_requests_are_refused_by_name(web, asked, body, status, text):
    answer = web.post("/v1/chat/completions", json=body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert text in error["message"]
    if error["param"]:
        assert f"“{error['param']}" in error["message"]
    assert asked == []


def test_what_is_not_json_is_refused(web, asked):
    answer = web.post("/v1/chat/completions", content=b"{")
    assert (answer.status_code, asked) == (400, [])
    assert "not a JSON object" in answer.json()["error"]["message"]


def test_parameters_without_an_effect_are_accepted_when_they_are_off(web, asked):
    values = {name: given[0] for name, given in openai_request.OFF.items()}
    values |= {"metadata": {"a": "b"}, "user": "me", "stop": []}
    assert web.post("/v1/chat/completions", json=question("base", **values)).is_success


@pytest.mark.parametrize(
    ("stop", "pieces", "reason"),
    [
        ("d d", ["Goo"], "stop"),
        ([" day", "zzz"], ["Good"], "stop"),
        (["ayx", ""], ["Good", " day"], "length"),  # held back until the end
        ("Good", [], "stop"),
    ],
)
def test_an_answer_ends_before_a_stop(web, asked, monkeypatch, stop, pieces, reason):
    stopped = []
    monkeypatch.setattr(client, "stop", stopped.append)
    body = question("base", stop=stop, max_tokens=1)
    whole = web.post("/v1/chat/completions", json=body).json()
    choice = whole["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("".join(pieces), reason)
    assert whole["usage"] == USAGE
    lines = web.post("/v1/chat/completions", json=body | {"stream": True}).text.split("\n\n")
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    text = [event["choices"][0]["delta"].get("content", "") for event in events]
    assert [piece for piece in text if piece] == pieces
    assert events[-1]["choices"][0]["finish_reason"] == reason
    assert len(stopped) == (2 if stop == "Good" else 0)


def test_other_sites_and_other_names_are_refused(web, asked):
    headers = {"Origin": "http://elsewhere.example"}
    assert web.post("/v1/chat/completions", json={}, headers=headers).status_code == 403
    assert web.get("/v1/models", headers={"Host": "elsewhere.example"}).status_code == 400
    assert web.get("/v1/models", headers=headers).status_code == 403
    large = b"x" * (openai_api.MOST_BODY_BYTES + 1)
    assert web.post("/v1/chat/completions", content=large).status_code == 413
    assert asked == []


def test_with_a_key_nothing_answers_without_it(copied_run, asked):
    app = openai_api.Endpoint(copied_run, key="secret").app()
    web = TestClient(app, base_url="http://127.0.0.1")
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        assert web.get("/v1/models", headers=headers).status_code == 401
        answer = web.post("/v1/chat/completions", json=question("base"), headers=headers)
        assert answer.status_code == 401
        assert "ORPO_QLORA_SERVE_KEY" in answer.json()["error"]["message"]
    headers = {"Authorization": "Bearer secret"}
    assert web.get("/v1/models", headers=headers).status_code == 200
    assert asked == []


def test_a_failure_of_the_chat_process_is_an_error(web, monkeypatch):
    def busy(*_):
        raise Busy("A run needs the memory.", hint="Ask again later.")
        yield

    monkeypatch.setattr(client, "ask", busy)
    answer = web.post("/v1/chat/completions", json=question("base"))
    assert answer.status_code == 503
    assert answer.json()["error"]["message"] == "A run needs the memory. Ask again later."
