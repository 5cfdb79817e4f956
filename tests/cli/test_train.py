import json

import pytest
from typer.testing import CliRunner

from orpo_qlora.cli import main, train
from orpo_qlora.config import TrainConfig
from orpo_qlora.data.examples import example_path
from orpo_qlora.data.pairs import load_preferences, split_pairs
from orpo_qlora.errors import InputError
from orpo_qlora.runs import store
from orpo_qlora.runs.process import launch


def test_a_result_says_what_the_curves_mean(capsys):
    dataset = load_preferences(example_path("hello"))
    paths = store.create_run(TrainConfig(), split_pairs(dataset.pairs, 0, 1), dataset.report)
    records = [{"step": step, "loss": 3 - step / 100} for step in range(1, 41)]
    paths.metrics.write_text("".join(json.dumps(record) + "\n" for record in records))
    train.print_result(store.read_run(paths))
    assert capsys.readouterr().out.startswith("The loss falls (2.75 → 2.65). (healthy)")


def run(*arguments):
    return CliRunner().invoke(main.app, arguments)


def test_a_run_created_without_a_start_prints_its_folder_or_its_data(own_home):
    command = ("train", str(example_path("hello")), "--no-start")
    folder = run(*command).stdout.strip()
    created = json.loads(run(*command, "--json").stdout)
    assert created["state"]["status"] == "stopped"
    assert {one.paths.folder.name for one in store.list_runs()} == {
        folder.rpartition("/")[2],
        created["id"],
    }
    refused = run(*command, "--detach")
    assert isinstance(refused.exception, InputError)
    assert len(store.list_runs()) == 2


@pytest.mark.parametrize(("given", "processes"), [("auto", 0), ("0", 0), ("3", 3)])
def test_resume_takes_a_number_of_processes_or_auto(own_home, monkeypatch, given, processes):
    found = []
    monkeypatch.setattr(launch, "resume_run", lambda _, **options: found.append(options) or 0)
    created = json.loads(run("train", str(example_path("hello")), "--no-start", "--json").stdout)
    assert run("resume", created["id"], "--processes", given, "--detach").exit_code == 0
    assert found == [{"from_start": False, "processes": processes}]
    assert run("resume", created["id"], "--processes", "-1").exit_code == 2
