"""Questions and answers in tests of the chat."""

import time

from orpo_qlora.chat import client
from orpo_qlora.chat.client import ChatSettings
from orpo_qlora.data.messages import Message

GREEDY = ChatSettings(temperature=0, max_tokens=12)
ENDLESS = ChatSettings(temperature=0, max_tokens=1900)
ASK = (Message("user", "What is gravity?"),)


def ask(run, settings=GREEDY, base=ASK, tuned=ASK):
    return list(client.stream(run, base, tuned, settings))


def wait_until(is_true, seconds):
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def begin(run):
    """Return an endless answer that has text already."""
    answer = client.stream(run, ASK, ASK, ENDLESS)
    for update in answer:
        if update.base and update.tuned:
            return answer
    raise AssertionError("the answer ended")
