"""The command line's verbs for many runs, in this process: no worker is started."""

import json

import pytest
from made_runs import make_run
from typer.testing import CliRunner

from orpo_qlora.cli import main
from orpo_qlora.errors import InputError, UnknownRun
from orpo_qlora.runs import store


@pytest.fixture
def said(monkeypatch, capsys):
    """Run a command and return what it printed."""

    def run(*arguments, answer=""):
        done = CliRunner().invoke(main.app, arguments, input=answer, catch_exceptions=False)
        return done.exit_code, done.output

    return run


def test_runs_are_listed_with_results(said):
    make_run(name="first", accuracy=0.8, tags=("night",))
    make_run(name="second", status="failed")
    listed = json.loads(said("runs", "--json", "--tag", "night")[1])
    assert [(run["name"], run["tags"]) for run in listed] == [("first", ["night"])]
    assert listed[0]["results"]["held_out"]["values"]["rewards/accuracies"] == 0.8
    assert [run["name"] for run in json.loads(said("runs", "--json", "--status", "failed")[1])] == [
        "second"
    ]
    with pytest.raises(InputError, match="not a valid status"):
        said("runs", "--status", "odd")


def test_a_run_gets_a_name_and_tags(said):
    paths = make_run(name="mine")
    assert said("label", "mine", "--name", "yours", "--tags", "a, b")[0] == 0
    assert said("label", paths.id, "--tags", "c")[0] == 0
    run = store.read_run(paths)
    assert (run.title, run.label.tags) == ("yours", ("c",))


def test_deletion_asks_first(said):
    paths = make_run(name="mine")
    assert said("delete", "mine", answer="n\n")[0] == 1
    assert paths.folder.is_dir()
    assert said("delete", "mine", answer="y\n")[0] == 0
    assert not paths.folder.exists()
    with pytest.raises(UnknownRun):
        said("delete", "mine", "--yes")


def test_the_log_is_printed_as_it_is(said):
    paths = make_run(name="mine")
    paths.log.write_text("one\n[bold]two[/]\n")
    assert "[bold]two[/]" in said("log", "mine")[1]
