"""A method that cannot train on the data is refused before a run exists, with the way out."""

import pytest
from files import json_lines, loaded
from made_runs import make_run
from typer.testing import CliRunner

from orpo_qlora.cli import main
from orpo_qlora.config import build_config
from orpo_qlora.data.files.choices import ReadChoices
from orpo_qlora.errors import CheckpointError, ConfigError, InputError
from orpo_qlora.methods import METHODS
from orpo_qlora.runs import checkpoints, store
from orpo_qlora.runs.identity import identity_of
from orpo_qlora.runs.process import launch
from orpo_qlora.runs.process.data_for_method import balance_sentence, check_data

HEADER = ("prompt", "completion", "label")
UNPAIRED = [(f"q{row}?", f"answer {row}", row % 3 > 0) for row in range(9)]
PAIRABLE = [*UNPAIRED, ("q0?", "better", True), ("q1?", "worse", False)]
ONE_PROMPT = [("q?", f"answer {row}", row % 2 == 0) for row in range(6)]
SINGLE = ReadChoices(labelled="single")


@pytest.fixture(autouse=True)
def no_worker(monkeypatch):
    """Runs stay in the queue."""
    monkeypatch.setattr(launch, "_start_next", lambda: None)


def refusal(tmp_path, rows, choices=None, **settings):
    """Return the error of a start; no run is left behind."""
    dataset = loaded(tmp_path, json_lines(rows, HEADER), choices=choices)
    with pytest.raises(InputError) as caught:
        launch.start_run(build_config(settings), dataset)
    assert store.list_runs() == []
    return str(caught.value)


@pytest.mark.parametrize("method", [name for name in METHODS if not METHODS[name].takes_single])
def test_a_method_that_needs_pairs_refuses_labels_that_cannot_be_paired(tmp_path, method):
    text = refusal(tmp_path, UNPAIRED, method=method)
    assert f"has 9 responses with a label, and the method {method} needs pairs" in text
    assert "Choose the method “kto”, or add a response with the opposite label" in text


def test_the_other_way_out_is_to_pair_them(tmp_path):
    assert "--labelled pairs, or “Labelled rows”" in refusal(tmp_path, PAIRABLE, SINGLE)


def test_responses_with_one_label_are_refused(tmp_path):
    good = [(prompt, answer, True) for prompt, answer, _ in UNPAIRED]
    text = refusal(tmp_path, good, method="kto")
    assert "All 9 responses of pairs.csv are chosen" in text
    assert text.endswith("Add rejected responses.")


@pytest.mark.parametrize("choices", [SINGLE, None])
def test_a_kl_term_needs_another_prompt(tmp_path, choices):
    text = refusal(tmp_path, ONE_PROMPT, choices, method="kto")
    assert "has the same prompt" in text
    assert "set kto_loss to apo_zero_unpaired" in text
    dataset = loaded(tmp_path, json_lines(ONE_PROMPT, HEADER), choices=choices)
    config = build_config({"method": "kto", "kto_loss": "apo_zero_unpaired"})
    check_data(config, dataset.report, dataset.pairs)


@pytest.mark.parametrize("beta", [0, -0.1])
def test_a_beta_that_is_not_positive_is_refused(beta):
    with pytest.raises(ConfigError, match=r"beta = .*greater than 0"):
        build_config({"method": "dpo", "beta": beta})


def test_weights_that_balance_the_labels_are_named(tmp_path):
    report = loaded(tmp_path, json_lines(UNPAIRED, HEADER)).report
    text = balance_sentence(build_config({"method": "kto"}), report)
    assert "6 chosen and 3 rejected responses" in text
    assert "from 0.50 to 0.67" in text
    balanced = build_config({"method": "kto", "desirable_weight": 0.6})
    assert balance_sentence(balanced, report) == ""


@pytest.mark.parametrize(
    ("arguments", "singles"),
    [
        (["train", "--set", "method=kto", "--detach"], 11),
        (["train", "--set", "method=kto", "--labelled", "pairs", "--detach"], 0),
        (["train", "--detach"], 0),
        (["sweep", "--set", "method=kto", "--over", "beta=0.1,0.2"], 11),
        (["sweep", "--over", "method=kto,sft"], 0),
    ],
)
def test_the_method_decides_how_labelled_rows_are_read(tmp_path, arguments, singles):
    path = tmp_path / "labelled.jsonl"
    path.write_text(json_lines(PAIRABLE, HEADER))
    verb, *options = arguments
    done = CliRunner().invoke(main.app, [verb, str(path), *options, "--json"])
    assert done.exit_code == 0, done.output
    for run in store.list_runs():
        assert run.report.singles == singles
        sides = [*store.training_pairs(run.paths), *store.held_out_pairs(run.paths)]
        assert sum(bool(pair.single) for pair in sides) == singles


def test_a_run_is_not_resumed_under_another_method():
    paths = make_run(status="stopped", method="dpo")
    identity = identity_of(store.read_run(paths).config, paths.train.parent)
    checkpoints.save_checkpoint(
        paths.checkpoints, 1, identity, lambda folder: (folder / "weights").write_text("w")
    )
    config = paths.config.read_text()
    paths.config.write_text(config.replace("method: dpo", "method: ipo"))
    with pytest.raises(CheckpointError, match='method was "dpo" and is "ipo"') as caught:
        launch.resume_run(paths)
    assert "Undo the changes, or start a new run with them." in caught.value.hint
    assert checkpoints.find_checkpoint(paths.checkpoints).newest.step == 1
    assert store.read_run(paths).state.status == "stopped"
