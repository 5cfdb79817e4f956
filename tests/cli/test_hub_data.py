"""Hub ids and saved folders where a FILE is expected."""

import json
import subprocess
import sys

import pytest
from hub_fetches import hub_environment
from loopback_hub import Repo, loopback_hub

from orpo_qlora.config import TrainConfig
from orpo_qlora.data.files.hub import HubSource
from orpo_qlora.data.pairs import PreferencePair, Split
from orpo_qlora.data.summary import DataSummary
from orpo_qlora.export.origin import origin_of
from orpo_qlora.export.reports.card import model_card
from orpo_qlora.export.reports.passport import loss_passport
from orpo_qlora.runs import store

ROWS = [{"prompt": f"Why {i}?", "chosen": f"Because {i}.", "rejected": "No."} for i in range(6)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def run_cli(*arguments, environment=None, folder=None):
    return subprocess.run(
        [sys.executable, "-m", "orpo_qlora.cli.main", *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=environment,
        cwd=folder,
    )


def test_check_takes_an_id(own_home, tmp_path):
    repo = Repo({"data/train.jsonl": LINES, "data/test.jsonl": LINES[:70]})
    with loopback_hub({"acme/pairs": repo}) as hub:
        environment = hub_environment(hub.address, tmp_path / "caches")
        first = ["check", "acme/pairs", "--json", "--max-rows", "4", "--data-revision", repo.sha]
        done = run_cli(*first, environment=environment)
        wrong = run_cli("check", "acme/pairs", "--split", "dev", environment=environment)
    assert done.returncode == 0, done.stderr
    report = DataSummary.model_validate_json(done.stdout)
    assert (report.rows_read, report.pairs) == (4, 4)
    assert report.hub == HubSource(
        id="acme/pairs", config="default", split="train", revision=repo.sha, max_rows=4
    )
    assert wrong.returncode == 2
    assert "no split “dev”" in wrong.stderr
    assert "“train”, “test”" in wrong.stderr


def test_a_saved_folder_takes_its_split_and_a_file_none(own_home, tmp_path):
    from datasets import Dataset, DatasetDict

    folder = tmp_path / "saved"
    DatasetDict({name: Dataset.from_list(ROWS) for name in ("a", "b")}).save_to_disk(folder)
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "pairs").write_bytes(LINES)
    done = run_cli("check", str(folder), "--split", "b")
    assert (done.returncode, "6 pairs usable" in done.stdout) == (0, True), done.stderr
    # A file that exists is never taken for an id.
    done = run_cli("check", "owner/pairs", folder=tmp_path)
    assert (done.returncode, "6 pairs usable" in done.stdout) == (0, True), done.stderr
    done = run_cli("check", "owner/pairs", "--split", "b", folder=tmp_path)
    assert done.returncode == 2
    assert "has no config, split or revision" in done.stderr


@pytest.fixture
def run():
    source = HubSource(id="acme/pairs", config="en", split="train", revision="ab" * 20)
    report = DataSummary(
        source=source.file_name, sha256="cd" * 32, rows_read=2, pairs=2, hub=source
    )
    pairs = tuple(PreferencePair(f"q{i}", "yes", "no", i) for i in (1, 2))
    return store.read_run(store.create_run(TrainConfig(), Split(pairs, ()), report))


def test_a_run_records_and_names_its_source(run):
    assert store.about_run(run.paths)["dataset_source"] == {
        "id": "acme/pairs", "config": "en", "split": "train", "revision": "ab" * 20, "max_rows": 0,
    }  # fmt: skip
    assert run.title.startswith("pairs (train) · ")
    facts = {fact.label: fact.value for fact in loss_passport(run, origin_of(run))}
    assert facts["Data source"] == (
        "From the Hugging Face Hub: acme/pairs, config en, split train, revision " + "ab" * 20 + "."
    )
    card = model_card(run, origin_of(run), "adapter", {})
    assert "datasets:\n- acme/pairs\n" in card
    assert "ab" * 20 in card
