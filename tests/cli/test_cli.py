"""The command line as a script sees it: exit codes, messages, JSON."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from orpo_qlora.runs import store

WAIT_SECONDS = 240


def run_cli(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "orpo_qlora.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )


@pytest.fixture
def csv_file(tmp_path):
    path = tmp_path / "pairs.csv"
    rows = [f'"what is {i}?","it is {i}, a number","who can say {i}"' for i in range(12)]
    path.write_text("prompt,chosen,rejected\n" + "\n".join(rows) + "\n")
    return path


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["check"], 2, "Missing argument"),
        (["check", "missing.csv"], 2, "missing.csv cannot be opened"),
        (["check", "short_answers"], 0, "192 rows read, 192 pairs usable"),
        (["train", "hello", "--set", "lamda=1"], 2, "did you mean lambda?"),
        (["train", "hello", "--set", "lambda=7"], 2, "less than or equal to 2"),
        (["train", "hello", "--preset", "huge"], 2, "no preset or file “huge”"),
        (["chat", "nobody"], 2, "no run “nobody”"),
        (["stop", "nobody"], 2, "no run “nobody”"),
        (["resume", "nobody"], 2, "no run “nobody”"),
        (["queue", "nobody"], 2, "no run “nobody”"),
        (["runs", "--wrong"], 2, "No such option"),
        (["--version"], 0, "orpo-qlora 0."),
    ],
)
def test_exit_code_and_message(arguments, code, words):
    done = run_cli(*arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_check_names_the_columns_it_found(tmp_path):
    path = tmp_path / "wrong.csv"
    path.write_text("question,good,bad\na,b,c\n")
    done = run_cli("check", str(path))
    assert done.returncode == 2
    assert all(word in done.stderr for word in ("question", "good", "chosen"))


def test_check_as_json_adds_up(csv_file):
    with csv_file.open("a") as file:
        file.write('"same","x","x"\n')
    report = json.loads(run_cli("check", str(csv_file), "--json").stdout)
    dropped = sum(len(drop["rows"]) for drop in report["drops"])
    assert (report["rows_read"], report["pairs"], dropped) == (13, 12, 1)


def test_train_follows_to_the_end_and_lists_the_run(csv_file, tiny_model):
    settings = ["--model", str(tiny_model), "--set", "max_steps=2", "--name", "small"]
    done = run_cli("train", str(csv_file), *settings)
    assert done.returncode == 0, done.stderr
    assert "Held-out preference accuracy" in done.stdout
    listed = json.loads(run_cli("runs", "--json").stdout)
    assert [(run["name"], run["state"]["status"]) for run in listed] == [("small", "finished")]
    assert listed[0]["has_adapter"]


def test_train_reports_a_failure_with_its_way_out(csv_file):
    done = run_cli("train", str(csv_file), "--model", "nobody/nothing")
    assert done.returncode == 1
    assert "hub cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr


def test_stop_resume_and_queue_from_another_terminal(csv_file, tiny_model):
    settings = ["--model", str(tiny_model), "--set", "max_steps=5000", "--detach", "--json"]
    started = json.loads(run_cli("train", str(csv_file), *settings).stdout)
    assert started["state"]["status"] in {"queued", "starting", "running"}
    waits = json.loads(run_cli("train", str(csv_file), *settings).stdout)
    assert waits["state"]["status"] == "queued"
    assert run_cli("queue", waits["id"], "--place", "1").stdout == f"1. {waits['id']}\n"
    assert run_cli("stop", waits["id"]).returncode == 0
    wait_for_step(started["id"])
    stopped = run_cli("stop", started["id"], "--now", "--grace", "60")
    assert "is stopped after step" in stopped.stdout
    again = run_cli("stop", started["id"])
    assert again.returncode == 2
    assert "nothing to stop" in again.stderr
    resumed = json.loads(run_cli("resume", started["id"], "--detach", "--json").stdout)
    assert resumed["state"]["step"] == resumed["checkpoint_step"] > 0
    assert run_cli("resume", started["id"]).returncode == 2
    assert run_cli("stop", started["id"], "--now", "--grace", "0").returncode == 0


def wait_for_step(run_id):
    deadline = time.monotonic() + WAIT_SECONDS
    while store.read_run(store.paths_of(run_id)).state.step < 1:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_stop_with_a_checkpoint_and_exit_10(csv_file, tiny_model, number):
    settings = ["--model", str(tiny_model), "--set", "max_steps=5000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "orpo_qlora.cli", "train", str(csv_file), *settings],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    run_id = process.stdout.readline().split()[1]
    wait_for_step(run_id)
    os.kill(process.pid, number)
    said, _ = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 10
    assert f"orpo-qlora resume {run_id}" in said
    run = store.find_run(run_id)
    assert run.state.status == "stopped"
    assert run.checkpoint_step == run.state.step > 0


def test_chat_answers_from_both_sides(csv_file, tiny_model):
    settings = ["--model", str(tiny_model), "--set", "max_steps=1"]
    assert run_cli("train", str(csv_file), *settings).returncode == 0
    done = run_cli("chat", "last", "-m", "hello", "--max-tokens", "5", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["message"] == "hello"
    assert set(answer) == {"message", "base", "tuned"}
