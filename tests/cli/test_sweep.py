"""`sweep` in this process: no worker is started."""

import json

import pytest
from made_runs import make_run
from typer.testing import CliRunner

from orpo_qlora.cli import main
from orpo_qlora.errors import InputError, UnknownRun
from orpo_qlora.runs import store
from orpo_qlora.runs.process import launch, sweep


@pytest.fixture
def output(monkeypatch):
    """Run a command and return what it printed."""
    monkeypatch.setattr(launch, "_start_next", lambda: None)

    def run(*arguments):
        done = CliRunner().invoke(main.app, arguments, catch_exceptions=False)
        assert done.exit_code == 0
        return done.output

    return run


def test_a_sweep_is_queued_from_a_file(output):
    printed = output(
        "sweep", "short_answers", "--set", "max_steps=3", "--name", "mine",
        "--over", "learning_rate=2e-4,1e-4", "--over", "nll_on=answer,sequence",
    )  # fmt: skip
    runs = sweep.group_of("last")
    assert [run.title for run in runs] == [
        f"mine learning rate = {rate}, NLL on = {side}"
        for rate in ("0.0001", "0.0002")
        for side in ("sequence", "answer")
    ]
    assert {run.config.max_steps for run in runs} == {3}
    assert len({store.training_pairs(run.paths) for run in runs}) == 1
    lines = printed.splitlines()
    assert lines[0] == f"{runs[0].id} learning rate = 0.0001, NLL on = sequence queued"
    assert lines[-1] == f"Compare them: orpo-qlora runs --sweep {sweep.tag_of(runs[0])}"


def test_a_sweep_is_queued_from_a_run(output):
    paths = make_run(name="mine", **{"lambda": 0.1})
    found = json.loads(output("sweep", "mine", "--over", "lambda=0.1 0.3", "--json"))
    assert found["runs"][0] == paths.id
    second = store.read_run(store.paths_of(found["runs"][1]))
    assert second.config.lambda_ == 0.3
    assert found["sweep"] in second.label.tags


def test_a_run_s_lambda_is_halved_and_doubled_unless_something_else_is_varied(output):
    make_run(name="mine", **{"lambda": 0.1})
    output("sweep", "mine")
    assert [run.config.lambda_ for run in sweep.group_of("last")] == [0.05, 0.1, 0.2]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("short_answers",), InputError, "nothing to vary"),
        (("short_answers", "--over", "lambda=0.1"), InputError, "single value"),
        (("short_answers", "--over", "lambda=0.1,9"), InputError, "less than or equal to 2"),
        (("nowhere.csv", "--over", "lambda=0.1,1"), UnknownRun, "nowhere.csv"),
        (("mine", "--set", "seed=1", "--over", "lambda=0.1,1"), InputError, "no file “mine”"),
    ],
)
def test_a_wrong_sweep_queues_nothing(output, arguments, error, message):
    make_run(name="mine")
    with pytest.raises(error, match=message):
        output("sweep", *arguments)
    assert len(store.list_runs()) == 1
