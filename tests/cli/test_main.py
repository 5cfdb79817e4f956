"""The command line as a script sees it: exit codes, messages, JSON."""

import importlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout

import pytest
from tiny import claim_layers
from typer.testing import CliRunner

from orpo_qlora.cli.main import app, main
from orpo_qlora.data.summary import DataSummary
from orpo_qlora.errors import InputError
from orpo_qlora.runs import store

WAIT_SECONDS = 240


def run_cli(*arguments):
    """Run the command line in this process: nothing is proved by starting one for each check."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["orpo-qlora", *arguments])
        patch.setenv("COLUMNS", "80")
        with pytest.raises(SystemExit) as ended:
            main()
    return subprocess.CompletedProcess(
        arguments, ended.value.code or 0, out.getvalue(), err.getvalue()
    )


def run_program(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "orpo_qlora.cli.main", *arguments],
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
        (["plan", "missing.csv"], 2, "missing.csv cannot be opened"),
        (["estimate", "hello", "--set", "lambda=7"], 2, "less than or equal to 2"),
        (["chat", "nobody"], 2, "no run “nobody”"),
        (["stop", "nobody"], 2, "no run “nobody”"),
        (["resume", "nobody"], 2, "no run “nobody”"),
        (["queue", "nobody"], 2, "no run “nobody”"),
        (["runs", "--wrong"], 2, "No such option"),
        (["train", "hello", "--pairs-from-ranking", "most"], 2, "'best_worst', 'best_rest', 'all'"),
        (["plan", "hello", "--pairs-from-ranking", ""], 2, "'best_worst', 'best_rest', 'all'"),
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
    path.write_text("question,fine,poor\na,b,c\n")
    done = run_cli("check", str(path))
    assert done.returncode == 2
    assert all(word in done.stderr for word in ("question", "fine", "chosen"))


def test_check_as_json_adds_up(csv_file):
    with csv_file.open("a") as file:
        file.write('"same","x","x"\n')
    report = json.loads(run_cli("check", str(csv_file), "--json").stdout)
    dropped = sum(len(drop["rows"]) for drop in report["drops"])
    assert (report["rows_read"], report["pairs"], dropped) == (13, 12, 1)


def test_train_follows_to_the_end_and_lists_the_run(csv_file, tiny_model):
    settings = ["--model", str(tiny_model), "--set", "max_steps=2", "--name", "small"]
    done = run_program("train", str(csv_file), *settings)
    assert done.returncode == 0, done.stderr
    assert "Held-out preference accuracy" in done.stdout
    listed = json.loads(run_program("runs", "--json").stdout)
    assert [(run["name"], run["state"]["status"]) for run in listed] == [("small", "finished")]
    assert listed[0]["has_adapter"]


def test_estimate_says_what_a_training_takes_and_plan_is_its_other_name(csv_file, tiny_model):
    settings = ["--model", str(tiny_model), "--set", "max_steps=5"]
    done = run_program("estimate", str(csv_file), *settings)
    assert done.returncode == 0, done.stderr
    assert "of memory (" in done.stdout
    assert "for 5 steps" in done.stdout
    found = json.loads(run_program("plan", str(csv_file), *settings, "--json").stdout)
    assert done.stdout.startswith(found["sentence"])
    assert (found["fits"], found["steps"], found["pairs"] + found["held_out_pairs"]) == (
        True,
        5,
        12,
    )
    assert json.loads(run_program("runs", "--json").stdout) == []


def test_estimate_exits_1_when_it_does_not_fit_and_says_what_to_change(
    csv_file, tiny_model, tmp_path
):
    greedy = ["max_tokens_per_forward=1000000", "activation_checkpointing=off", "lora_r=1"]
    settings = [part for setting in [*greedy, "pairs_per_step=12"] for part in ("--set", setting)]
    deep = claim_layers(tiny_model, tmp_path / "deep")
    done = run_cli("estimate", str(csv_file), "--model", str(deep), *settings)
    assert done.returncode == 1
    assert "Does not fit" in done.stdout
    assert "Tokens per forward" in done.stdout


def test_train_reports_a_failure_with_its_way_out(csv_file):
    done = run_program("train", str(csv_file), "--model", "nobody/nothing")
    assert done.returncode == 1
    assert "hub cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("fake_worker")  # a real one would compute all the while
def test_stop_resume_and_queue_from_another_terminal(csv_file, tiny_model):
    settings = ["--model", str(tiny_model), "--set", "max_steps=5000", "--detach", "--json"]
    started = json.loads(run_program("train", str(csv_file), *settings).stdout)
    assert started["state"]["status"] in {"queued", "starting", "running"}
    waits = json.loads(run_program("train", str(csv_file), *settings).stdout)
    assert waits["state"]["status"] == "queued"
    assert run_program("queue", waits["id"], "--place", "1").stdout == f"1. {waits['id']}\n"
    assert "has left the queue" in run_program("stop", waits["id"]).stdout
    wait_for_step(started["id"])
    stopped = run_program("stop", started["id"], "--now", "--grace", "60")
    assert "is stopped after step" in stopped.stdout
    again = run_program("stop", started["id"])
    assert again.returncode == 2
    assert "nothing to stop" in again.stderr
    resumed = json.loads(run_program("resume", started["id"], "--detach", "--json").stdout)
    assert resumed["state"]["step"] == resumed["checkpoint_step"] > 0
    assert run_program("resume", started["id"]).returncode == 2
    assert run_program("stop", started["id"], "--now", "--grace", "0").returncode == 0


def wait_for_step(run_id):
    deadline = time.monotonic() + WAIT_SECONDS
    while store.read_run(store.paths_of(run_id)).state.step < 1:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_stop_with_a_checkpoint_and_exit_10(csv_file, tiny_model, number):
    settings = ["--model", str(tiny_model), "--set", "max_steps=5000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "orpo_qlora.cli.main", "train", str(csv_file), *settings],
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
    assert run_program("train", str(csv_file), *settings).returncode == 0
    done = run_program("chat", "last", "-m", "hello", "--max-tokens", "5", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["message"] == "hello"
    assert set(answer) == {"message", "base", "tuned", "note"}
    assert answer["note"] == "base and tuned cut at 5 tokens; allow more to read on"
    assert "starting the chat process…" in done.stderr


def test_check_proposes_encodings_and_reads_the_chosen_one(tmp_path):
    path = tmp_path / "old.csv"
    path.write_bytes("prompt,chosen,rejected\n你好吗,我很好,不好\n".encode("gbk"))
    refused = run_cli("check", str(path))
    assert refused.returncode == 2
    assert "--encoding gb18030: 你好吗,我很好,不好" in refused.stderr
    done = run_cli("check", str(path), "--encoding", "gb18030", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["pairs"], report["choices"]["encoding"]) == (1, "gb18030")


def test_train_reads_with_the_given_options(tmp_path):
    path = tmp_path / "old.csv"
    path.write_bytes("prompt,chosen,rejected\n你好吗,我很好,不好\n".encode("gbk"))
    for options, words in (
        ([], "--encoding gb18030: 你好吗,我很好,不好"),
        (["--encoding", "shift_jis"], "cannot be read as shift_jis"),
        (["--encoding", "gb18030", "--fix", "all"], "no fix “all”"),
    ):
        done = run_cli("train", str(path), *options)
        assert done.returncode == 2
        assert words in done.stderr


def test_check_takes_columns_and_remembers_them_for_such_files(tmp_path):
    path = tmp_path / "other.csv"
    path.write_text("question,fine,poor\na,b,c\n")
    refused = run_cli("check", str(path))
    assert refused.returncode == 2
    assert "--map PART=COLUMN: choose the columns" in refused.stderr
    options = ["--chosen-column", "fine", "--rejected-column", "poor"]
    assert "1 pair usable" in run_cli("check", str(path), *options).stdout
    path.write_text("poor,fine,question\nc,b,a\nf,e,d\n")
    again = run_cli("check", str(path))
    assert "2 pairs usable" in again.stdout
    assert "Columns as chosen before for such a file: “question” as prompt" in again.stdout


def test_check_mends_and_writes_what_is_usable(tmp_path):
    path = tmp_path / "ugly.csv"
    path.write_text("prompt,chosen,rejected\na,b,c\na,b,c\nd,e\n=f,g<|im_end|>,h\n")
    refused = run_cli("check", str(path))
    assert refused.returncode == 2
    assert "--fix broken-rows" in refused.stderr
    fixes = ["--fix", "broken-rows", "--fix", "duplicate", "--fix", "special-tokens"]
    files = ["--export", str(tmp_path / "clean.jsonl"), "--report", str(tmp_path / "report.json")]
    done = run_cli("check", str(path), *fixes, *files)
    assert done.returncode == 0, done.stderr
    for words in ("4 rows read, 2 pairs usable", "the row cannot be read (row 3)", "(row 2)"):
        assert words in done.stdout
    lines = (tmp_path / "clean.jsonl").read_text().splitlines()
    assert [json.loads(line)["chosen"] for line in lines] == ["b", "g"]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["rows_read"] == report["pairs"] + sum(one["count"] for one in report["drops"])
    assert report["choices"]["fixes"] == ["broken-rows", "duplicate", "special-tokens"]


RANKED = (
    '{"prompt": "q?", "responses": ["mid", "best", "worst"], "scores": [2, 9, 1]}\n'
    '{"prompt": "r?", "responses": ["good", "bad"], "scores": [1, 0]}\n'
)
PAIRS_FROM_RANKING = {
    "best_worst": [("q?", "best", "worst"), ("r?", "good", "bad")],
    "best_rest": [("q?", "best", "mid"), ("q?", "best", "worst"), ("r?", "good", "bad")],
    "all": [
        ("q?", "best", "mid"),
        ("q?", "best", "worst"),
        ("q?", "mid", "worst"),
        ("r?", "good", "bad"),
    ],
}


@pytest.mark.parametrize("setting", PAIRS_FROM_RANKING)
def test_check_takes_the_pairs_from_a_ranking_that_are_chosen(tmp_path, setting):
    path, clean = tmp_path / "ranked.jsonl", tmp_path / "clean.jsonl"
    path.write_text(RANKED)
    done = run_cli("check", str(path), "--pairs-from-ranking", setting, "--export", str(clean))
    assert done.returncode == 0, done.stderr
    counts = "best_worst 2, best_rest 3, all 4"
    assert f"Pairs from rankings: {counts}; “{setting}” is used." in done.stdout
    pairs = [json.loads(line) for line in clean.read_text().splitlines()]
    found = [(pair["prompt"], pair["chosen"], pair["rejected"]) for pair in pairs]
    assert found == PAIRS_FROM_RANKING[setting]


@pytest.mark.parametrize(
    ("command", "owner", "name"),
    [("train", "launch", "start_run"), ("estimate", "estimation", "request_for")],
)
def test_train_and_estimate_take_the_same_pairs(tmp_path, monkeypatch, command, owner, name):
    seen = []

    def stand_in(*arguments):
        seen.extend(getattr(one, "report", one) for one in arguments)
        raise InputError("far enough")

    monkeypatch.setattr(getattr(importlib.import_module(f"orpo_qlora.cli.{command}"), owner), name,
                        stand_in)  # fmt: skip
    path = tmp_path / "ranked.jsonl"
    path.write_text(RANKED)
    CliRunner().invoke(app, [command, str(path), "--pairs-from-ranking", "best_rest"])
    reports = [one for one in seen if isinstance(one, DataSummary)]
    assert [(one.pairs, one.choices.pairs_from_ranking) for one in reports] == [(3, "best_rest")]


def test_check_names_fixes_it_does_not_know(csv_file):
    done = run_cli("check", str(csv_file), "--fix", "all")
    assert done.returncode == 2
    assert "no fix “all”" in done.stderr


def test_check_counts_the_tokens_that_training_will_see(csv_file, tiny_model):
    with csv_file.open("a") as file:
        file.write(f'"long","{"word " * 60}","short"\n')
    options = ["--model", str(tiny_model), "--max-length", "100"]
    done = run_cli("check", str(csv_file), *options)
    assert done.returncode == 0, done.stderr
    assert "1 pair (7.7%) will be left out: row 13" in done.stdout
    found = json.loads(run_cli("check", str(csv_file), *options, "--json").stdout)
    assert (found["rows_read"], found["tokens"]["pairs"], found["tokens"]["dropped"]) == (13, 13, 1)
    assert found["tokens"]["whole"]["longest"] > 100


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--model", "nobody/nothing"], 1, "hub cannot be reached"),
        (["--max-length", "3"], 2, "max_length"),
        (["--over-length", "shrink"], 2, "over_length"),
    ],
)
def test_check_says_why_tokens_cannot_be_counted(csv_file, options, code, words):
    done = run_cli("check", str(csv_file), *options)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_check_takes_a_shape_its_columns_and_the_values_of_a_verdict(tmp_path):
    path = tmp_path / "two.csv"
    path.write_text("prompt,response_a,response_b,winner\nq?,a,b,0\nr?,a,b,1\ns?,a,b,2\n")
    refused = run_cli("check", str(path))
    assert refused.returncode == 2
    assert "--map first_values=0 --map second_values=1" in refused.stderr
    values = ["--map", "first_values=0", "--map", "second_values=1", "--export"]
    clean = tmp_path / "clean.jsonl"
    done = run_cli("check", str(path), *values, str(clean))
    assert "3 rows read, 2 pairs usable" in done.stdout
    rows = [json.loads(line) for line in clean.read_text().splitlines()]
    assert [(row["chosen"], row["rejected"]) for row in rows] == [("a", "b"), ("b", "a")]
    unknown = run_cli("check", str(path), "--map", "best=x")
    assert "--map has no “best”" in unknown.stderr


def test_check_shows_what_the_common_prefix_would_be_and_takes_its_flag(tmp_path):
    path = tmp_path / "whole.jsonl"
    path.write_text('{"chosen": "Why? Because.", "rejected": "Why? No idea."}\n')
    refused = run_cli("check", str(path))
    assert refused.returncode == 2
    for text in ("--prompt-from-common-prefix", "prompt: “Why?”", "rejected: “No idea.”"):
        assert text in refused.stderr
    assert "1 pair usable" in run_cli("check", str(path), "--prompt-from-common-prefix").stdout


def test_ctrl_c_ends_any_command_with_the_code_of_a_stop(monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "find_run", interrupted)
    result = run_cli("export", "last")
    assert (result.returncode, result.stderr.strip()) == (10, "Stopped.")
