"""The chat process: start, crash, idle exit, release, and access to its socket."""

import os
import signal
import socket
import subprocess
import sys

import psutil
import pytest
from talk import ask, begin, wait_until

from orpo_qlora import storage
from orpo_qlora.chat import client, protocol
from orpo_qlora.chat.client import ChatSettings
from orpo_qlora.errors import ConfigError

PATIENCE_SECONDS = 120


@pytest.fixture(autouse=True)
def no_process_left(own_home):
    yield
    client.release()


def test_a_killed_process_is_started_again(run):
    first = ask(run)[-1]
    os.kill(client.status().pid, signal.SIGKILL)
    updates = ask(run)
    assert updates[-1].base == first.base


def test_a_process_killed_in_mid_answer_is_a_clear_error(run):
    answer = begin(run)
    os.kill(client.status().pid, signal.SIGKILL)
    with pytest.raises(client.WorkerLost, match="in the middle of an answer") as caught:
        list(answer)
    assert "answering with run" in caught.value.hint


def test_a_process_that_cannot_start_is_a_clear_error(run, monkeypatch):
    monkeypatch.setattr(client, "SERVER", "orpo_qlora.chat.no_such_module")
    with pytest.raises(client.WorkerLost, match="does not start") as caught:
        ask(run)
    assert "no_such_module" in caught.value.hint


def test_settings_out_of_bounds_start_nothing(run, own_home):
    with pytest.raises(ConfigError, match="top-p"):
        ask(run, ChatSettings(top_p=0))
    assert not (own_home / "chat" / "server.json").exists()


def test_release_frees_the_process(run):
    ask(run)
    pid = client.status().pid
    client.release()
    assert not psutil.pid_exists(pid)
    assert client.status() is None
    client.release()
    client.stop()


def test_a_second_process_is_refused_by_the_lock(run, own_home):
    ask(run)
    before = protocol.read_address()
    second = subprocess.run(
        [sys.executable, "-m", client.SERVER],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert second.returncode == 1
    assert "Another chat process is already running." in second.stderr
    assert "Traceback" not in second.stderr
    assert protocol.read_address() == before
    assert ask(run)[-1].is_done


def test_an_idle_process_exits(run, monkeypatch):
    monkeypatch.setenv("ORPO_QLORA_CHAT_IDLE_SECONDS", "0.5")
    answer = begin(run)
    pid = client.status().pid  # asked while it is busy: later it may be gone
    answer.close()
    wait_until(lambda: not storage.is_locked(protocol.lock_file()), seconds=PATIENCE_SECONDS)
    client._reap(10)
    assert not psutil.pid_exists(pid)
    assert ask(run)[-1].is_done


def test_only_the_owner_with_the_token_can_connect(run, own_home):
    ask(run)
    folder = own_home / "chat"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "server.json").stat().st_mode & 0o777 == 0o600
    port = protocol.read_address().port
    for line in (
        b"POST / HTTP/1.1\r\n\r\n",
        protocol.to_line(protocol.Request(token="wrong", kind="status")),
        b"[]\n",
    ):
        with socket.create_connection((protocol.HOST, port), timeout=PATIENCE_SECONDS) as wire:
            wire.sendall(line)
            assert wire.recv(100) == b""
    assert client.status() is not None


def test_client_does_not_import_torch():
    code = (
        "import sys, orpo_qlora.chat.client; "
        "sys.exit(bool({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=PATIENCE_SECONDS).returncode == 0
