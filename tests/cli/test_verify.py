"""`verify` compares one real step with TRL's, in its own process, and reports the differences."""

import json

import pytest
from typer.testing import CliRunner

from orpo_qlora.cli import verify as cli_verify
from orpo_qlora.cli.main import app
from orpo_qlora.config import TrainConfig
from orpo_qlora.data.examples import example_path
from orpo_qlora.data.pairs import load_preferences
from orpo_qlora.errors import InputError
from orpo_qlora.orpo.verify import program
from orpo_qlora.orpo.verify.parity import COMPARED

SETTINGS = [
    "--set",
    "pairs_per_step=3",
    "--set",
    "max_length=64",
    "--set",
    "over_length=cut_answers",
]


def report_of(tiny_model, **settings):
    config = TrainConfig(model=str(tiny_model), pairs_per_step=3, **settings)
    pairs = load_preferences(example_path("short_answers")).pairs[:3]
    return program.verify(config, pairs)


@pytest.fixture
def doubled_lambda(monkeypatch):
    """An engine with a wrong λ."""
    right = program.loss_for

    def wrong(config):
        return right(config.model_copy(update={"lambda_": 2 * config.lambda_}))

    monkeypatch.setattr(program, "loss_for", wrong)


def test_the_command_reports_equal_steps_and_exits_0(tiny_model):
    done = CliRunner().invoke(app, ["verify", "--model", str(tiny_model), "--json", *SETTINGS])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["equal"]
    assert report["pairs"] == 3
    assert report["forwards"] > 1
    assert [one["name"] for one in report["differences"]][:-1] == list(COMPARED)
    assert report["differences"][-1]["name"].startswith("gradient")
    assert "were cut" in report["notes"][0]


def test_a_wrong_lambda_is_reported_as_differing(tiny_model, doubled_lambda):
    report = report_of(tiny_model)
    assert not report["equal"]
    within = {one["name"].split()[0]: one["within"] for one in report["differences"]}
    assert not within["loss"]
    assert not within["gradient"]
    assert within["logps/chosen"]
    assert within["nll_loss"]


def test_a_difference_exits_1_and_is_printed(tiny_model, doubled_lambda, monkeypatch, capfd):
    monkeypatch.setattr(
        cli_verify.program, "run_foreground", lambda module, arguments: program.main(arguments)
    )
    done = CliRunner().invoke(app, ["verify", "--model", str(tiny_model), *SETTINGS])
    assert done.exit_code == 1
    assert "differs" in done.stdout
    assert "more than rounding" in done.stdout


def test_settings_that_trl_does_not_have_are_named(tiny_model):
    report = report_of(tiny_model, nll_on="answer", lora_dropout=0.1, compute_dtype="bfloat16")
    assert report["equal"]
    notes = " ".join(report["notes"])
    assert all(word in notes for word in ("nll_on=sequence", "dropout", "float32"))


def test_lambda_zero_equals_trl(tiny_model):
    assert report_of(tiny_model, lambda_=0.0)["equal"]


@pytest.mark.parametrize("method", ["sft", "dpo", "ipo", "simpo", "cpo", "kto"])
def test_every_method_is_verified(tiny_model, method):
    # Short responses: on a random model the sums of long ones are thousands of nats.
    report = report_of(tiny_model, method=method, max_length=64, over_length="cut_answers")
    assert report["equal"], report["differences"]
    assert report["method"].lower().startswith(method)
    names = {one["name"] for one in report["differences"]}
    assert "loss" in names
    assert method == "sft" or {"rewards/chosen", "rewards/rejected"} <= names


@pytest.mark.parametrize(
    "settings", [{"ratio": "probability"}, {"method": "dpo", "label_smoothing": 0.1}], ids=str
)
def test_a_loss_that_trl_does_not_have_is_refused(tiny_model, settings):
    with pytest.raises(InputError, match=r"TRL.*Verify with"):
        report_of(tiny_model, **settings)


def test_an_unknown_model_exits_1_with_its_way_out(capfd):
    done = CliRunner().invoke(app, ["verify", "--model", "/no/such/model"])
    assert done.exit_code == 1
    assert "is neither a folder" in capfd.readouterr().err
