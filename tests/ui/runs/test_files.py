import csv
import tempfile

import pytest
import yaml
from made_runs import make_run

from orpo_qlora.config import build_config
from orpo_qlora.data.examples import example_path
from orpo_qlora.data.pairs import load_preferences, split_pairs
from orpo_qlora.errors import InputError, UnknownRun
from orpo_qlora.runs import store
from orpo_qlora.ui.data import uploads
from orpo_qlora.ui.history import listing
from orpo_qlora.ui.runs import files as run_files
from orpo_qlora.ui.runs.files import make_file


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_settings_and_metrics_are_downloaded_unchanged():
    paths = make_run(name="../<b>mine", accuracy=0.8)
    settings = make_file(paths.id, "settings")
    assert settings.name == "b-mine-config.yaml"
    assert settings.read_bytes() == paths.config.read_bytes()
    assert yaml.safe_load(settings.read_text())["lambda"] == 0.1
    assert make_file(paths.id, "jsonl").read_bytes() == paths.metrics.read_bytes()


def test_metrics_as_csv_have_a_column_for_each_side_and_numbers_only():
    paths = make_run(accuracy=0.8)
    with paths.metrics.open("a") as file:
        file.write('{"step": 11, "loss": "=cmd()", "nll_loss": 1.5}\n')
    with make_file(paths.id, "csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 13
    assert (rows[0]["step"], rows[0]["loss"], rows[0]["eval/loss"]) == ("1", "2.9", "")
    assert (rows[5]["step"], rows[5]["eval/rewards/accuracies"]) == ("5", "0.8")
    assert (rows[-1]["loss"], rows[-1]["nll_loss"]) == ("", "1.5")


def test_a_missing_file_is_reported():
    paths = make_run(name="new", status="queued")
    with pytest.raises(InputError, match=r"“new” has not written log.txt yet"):
        make_file(paths.id, "log")


@pytest.mark.parametrize("run_id", ["../../etc", "20260101-000000-beef"])
def test_only_files_of_runs_can_be_downloaded(run_id):
    with pytest.raises(UnknownRun):
        make_file(run_id, "log")


def test_an_unchanged_name_stays_that_of_the_settings():
    paths = make_run(name="mine")
    run_files.save_label(paths.id, "mine", "a, b")
    assert store.read_run(paths).label.name == ""
    assert store.read_run(paths).label.tags == ("a", "b")
    assert run_files.save_label(paths.id, " other ", "").title == "other"
    listing.add_tag([paths.id], "c, d")
    assert store.read_run(paths).label.tags == ("c", "d")
    assert store.read_run(paths).title == "other"


def test_again_reads_a_kept_file_as_the_run_did():
    source = example_path("hello")
    dataset_id = uploads.store_upload(source, source.name)
    dataset = uploads.open_upload(dataset_id)
    run = store.create_run(build_config({}), split_pairs(dataset.pairs, 0, 1), dataset.report)
    other = dataset.report.choices.model_copy(update={"fixes": ("duplicate",)})
    uploads.choose(dataset_id, other)
    assert run_files.dataset_of(run) == dataset_id
    assert uploads.choices_of(dataset_id) == dataset.report.choices


def test_again_keeps_the_pairs_of_a_run_whose_file_is_gone():
    dataset = load_preferences(example_path("short_answers"))
    config = build_config({"held_out": 0.2, "seed": 5})
    split = split_pairs(dataset.pairs, config.held_out, config.seed)
    run = store.create_run(config, split, dataset.report)
    again = uploads.open_upload(run_files.dataset_of(run))
    assert again.report.source == "short_answers.jsonl"
    made = split_pairs(again.pairs, config.held_out, config.seed)
    assert [pair.prompt for pair in made.held_out] == [pair.prompt for pair in split.held_out]
    assert [pair.chosen for pair in made.train] == [pair.chosen for pair in split.train]
