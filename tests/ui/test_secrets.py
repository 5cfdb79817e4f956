"""One whole job by the real programs, a hub token in their environment and an ear to the wire."""

import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import httpx
import psutil
import pytest
from serving import END_SECONDS, ROOT, serving

from orpo_qlora.chat import client
from orpo_qlora.chat.client import ChatSettings
from orpo_qlora.data.examples import example_names, example_path
from orpo_qlora.data.messages import Message
from orpo_qlora.runs import store

TOKEN = "hf_" + "Zq7" * 12
WAIT_SECONDS = 240.0
LOOKS = 50
"""How often the command line of a process is read: during its first second."""


@pytest.fixture
def ear(tmp_path, monkeypatch):
    """Return the file that holds every look outside, of this test's programs."""
    paths = (str(Path(__file__).parents[1] / "outgoing"), str(ROOT))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("OUTGOING", str(tmp_path / "outgoing.txt"))
    return tmp_path / "outgoing.txt"


def test_the_audit_hook_records_connections(ear):
    looks = (
        "import socket; s = socket.socket(); s.settimeout(0.1); s.connect(('192.0.2.1', 9))",
        "import socket; socket.getaddrinfo('hub.invalid', 443)",
    )
    for look in looks:
        subprocess.run([sys.executable, "-c", look], capture_output=True, check=False)
    assert "192.0.2.1" in ear.read_text()
    assert "hub.invalid" in ear.read_text()


def seen_command_lines(ended):
    """Return every command line seen until `ended`."""
    found, looks = set(), Counter()
    while not ended.wait(0.02):
        # A new process may still be its parent's image: a few looks, until it has its own.
        young = [pid for pid in psutil.pids() if looks[pid] < LOOKS]
        looks.update(young)
        for pid in young:
            try:
                found.add(" ".join(psutil.Process(pid).cmdline()))
            except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
                continue
    return found


def whole_job(tiny_model, served):
    """Look at the page, upload, train and chat; return what page and command line said."""
    source = example_path(example_names()[0])
    with httpx.Client(base_url=served.address, trust_env=False, timeout=END_SECONDS) as page:
        pages = [page.get(path).text for path in ("/", "/config", "/gradio_api/info")]
        files = {"files": (source.name, source.read_bytes())}
        pages.append(page.post("/gradio_api/upload", files=files).text)
    settings = ["max_steps=4", "checkpoint_every=2", "held_out=0"]
    options = [part for setting in settings for part in ("--set", setting)]
    program = [sys.executable, "-m", "orpo_qlora.cli.main", "train", str(source), "--model"]
    done = subprocess.run(
        [*program, str(tiny_model), *options],
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    run = store.find_run("last")
    pages += [done.stdout, done.stderr]
    turns = [Message("user", "hello")]
    *_, last = client.stream(run, turns, turns, ChatSettings(max_tokens=3))
    assert last.is_done
    client.release()
    return "".join(pages), run


def test_a_whole_job_keeps_the_token_secret_and_connects_to_nobody(
    tiny_model, own_home, ear, monkeypatch
):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.setenv(name, TOKEN)
    ended, lines = threading.Event(), []
    watch = threading.Thread(target=lambda: lines.extend(seen_command_lines(ended)))
    watch.start()
    try:
        with serving(own_home) as served:
            shown, run = whole_job(tiny_model, served)
    finally:
        ended.set()
        watch.join()
    assert TOKEN not in shown + served.said + served.rest
    assert any("runs.process.worker" in line for line in lines)
    assert not any(TOKEN in line for line in lines)
    files = [path for path in own_home.rglob("*") if path.is_file()]
    assert run.paths.log in files
    for path in files:
        assert TOKEN.encode() not in path.read_bytes(), path
    assert not ear.exists(), ear.read_text()
    assert_private(own_home, run)


def assert_private(home, run):
    for folder in (home, *(path for path in home.iterdir() if path.is_dir())):
        assert folder.stat().st_mode & 0o077 == 0, folder
    written = [run.paths.metrics, *run.paths.adapter.iterdir()]
    for path in written:
        assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.parametrize("token", [TOKEN, "a-token-of-another-kind"])
def test_a_token_in_an_error_is_masked(token):
    """Also in the traceback, which quotes the error, and in what libraries log of it."""
    program = """
import logging, sys
from orpo_qlora.program import run_program

def main():
    try:
        raise ValueError("sent Authorization: Bearer " + TOKEN)
    except ValueError:
        logging.getLogger("library").exception("the hub said no to %s", TOKEN)
        raise

import os
TOKEN = os.environ["HF_TOKEN"]
sys.exit(run_program(main, on_error=lambda error: print(error)))
"""
    environment = {**os.environ, "HF_TOKEN": token}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert token not in done.stdout + done.stderr
    assert done.stderr.count("hf_…") >= 3
    assert "Bearer hf_…" in done.stdout
