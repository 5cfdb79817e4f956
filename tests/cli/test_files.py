"""FILE arguments with a share, a cap or an encoding each."""

import json
from pathlib import Path

import pytest
import yaml
from files import json_lines, separated
from typer.testing import CliRunner

from orpo_qlora.cli.files import file_set
from orpo_qlora.cli.main import app
from orpo_qlora.data.files.choices import ReadChoices
from orpo_qlora.data.files.sources import Quota
from orpo_qlora.errors import InputError
from orpo_qlora.runs import store

ROWS = [(f"question {index}?", f"good {index}", f"bad {index}") for index in range(12)]
OTHERS = [(f"other {index}?", f"fine {index}", f"poor {index}") for index in range(8)]


@pytest.fixture
def two(tmp_path):
    a, b = tmp_path / "a.csv", tmp_path / "b.jsonl"
    a.write_text(separated(ROWS))
    b.write_text(json_lines(OTHERS))
    return [str(a), str(b)]


def quotas(files, **options):
    found = file_set(files, ReadChoices(), locate=Path, **options)
    return [one.quota for one in found.files]


@pytest.mark.parametrize("option", ["b.jsonl=0.25", "{b}=0.25"])
def test_a_share_names_its_file_by_argument_or_by_name(two, option):
    found = quotas(two, shares=[option.format(b=two[1])])
    assert found == [Quota(), Quota(share=0.25)]


def test_a_single_file_needs_no_name(two):
    assert quotas(two[:1], caps=["5"]) == [Quota(cap=5)]


def test_windows_paths_and_hub_names_are_no_obstacle():
    files = [r"C:\data\a=b.csv", "owner/name"]
    assert quotas(files, caps=[r"C:\data\a=b.csv=5", "owner/name=7"]) == [
        Quota(cap=5),
        Quota(cap=7),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shares": ["0.5"]}, r"does not name one of the files\. Write --share .*a\.csv=0\.5"),
        ({"shares": ["c.csv=0.5"]}, r"--share c\.csv names none of the files"),
        ({"shares": ["b.jsonl=2"]}, "“2” is no share of"),
        ({"caps": ["b.jsonl=0"]}, "“0” is no cap for"),
        ({"caps": ["b.jsonl=1", "b.jsonl=2"]}, "given twice for"),
        ({"caps": ["b.jsonl=1"], "shares": ["b.jsonl=1"]}, "both a share and a cap"),
    ],
)
def test_what_is_wrong_with_an_option_is_said(two, options, message):
    with pytest.raises(InputError, match=message):
        quotas(two, **options)


def test_an_encoding_belongs_to_its_file(two):
    found = file_set(two, ReadChoices(), encodings=["a.csv=windows-1252"]).files
    assert [one.choices.encoding for one in found] == ["windows-1252", ""]


def test_check_reports_and_exports_all_files(two, tmp_path):
    out = tmp_path / "all.jsonl"
    options = ["--cap", "a.csv=3", "--share", "b.jsonl=0.5", "--export", str(out)]
    done = CliRunner().invoke(app, ["check", *two, *options])
    assert done.exit_code == 0, done.output
    assert "20 rows read, 7 pairs usable." in done.stdout
    assert "a.csv: 12 pairs found, 3 taken (cap 3)." in done.stdout
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    taken = [(row["prompt"], row["chosen"], row["rejected"]) for row in rows]
    assert len(taken) == 7
    assert taken == [one for one in (*ROWS, *OTHERS) if one in taken]


def test_columns_are_chosen_for_one_file_at_a_time(two):
    done = CliRunner().invoke(app, ["check", *two, "--prompt-column", "prompt"])
    assert "one file at a time" in str(done.exception)


def test_a_run_of_two_files_records_them(two, monkeypatch):
    from orpo_qlora.runs.process import launch

    monkeypatch.setattr(launch, "start_next", lambda: None)
    done = CliRunner().invoke(app, ["train", *two, "--cap", "a.csv=4", "--detach", "--json"])
    assert done.exit_code == 0, (done.output, done.exception)
    run = store.list_runs()[0]
    about = yaml.safe_load(run.paths.config.read_text())["run"]
    assert about["dataset_sha256"] == run.report.sha256
    assert about["sample_seed"] == 0
    parts = run.report.files
    assert about["files"] == [
        {"name": "a.csv", "sha256": parts[0].sha256, "pairs_found": 12, "pairs_taken": 4, "cap": 4},
        {"name": "b.jsonl", "sha256": parts[1].sha256, "pairs_found": 8, "pairs_taken": 8},
    ]
    parts = json.loads(run.paths.report.read_text())["files"]
    assert [(one["name"], one["pairs_taken"], one["quota"]["cap"]) for one in parts] == [
        ("a.csv", 4, 4),
        ("b.jsonl", 8, None),
    ]
    assert run.title.startswith("a + b · ")
