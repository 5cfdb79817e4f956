import json
import os
import tempfile

import pytest

from orpo_qlora.data.pairs import load_preferences
from orpo_qlora.errors import DataError
from orpo_qlora.ui.data import corrections, downloads, uploads
from orpo_qlora.ui.parts.downloads import FOLDERS_KEPT, plain_name

ROWS = ['"=cmd()","+1 yes","-no"', '"=cmd()","+1 yes","-no"', "why?,so,not so"]


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def dataset_id(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("prompt,chosen,rejected\n" + "\n".join(ROWS) + "\n", encoding="utf-8")
    return uploads.store_upload(path, "my <b> pairs/../x.csv")


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_cleaned_file_reads_back_as_the_pairs_that_train(dataset_id, kind):
    corrections.apply_choice(dataset_id, "fix:duplicate")
    path = downloads.make_file(dataset_id, kind)
    kept = uploads.open_upload(dataset_id).pairs
    again = load_preferences(path).pairs
    assert [(p.prompt, p.chosen, p.rejected) for p in again] == [
        (p.prompt, p.chosen, p.rejected) for p in kept
    ]
    assert len(again) == 2
    if kind == "csv":
        # No cell begins with what a spreadsheet would run.
        assert ',"+' not in path.read_text(encoding="utf-8-sig")
        assert '"=' not in path.read_text(encoding="utf-8-sig")


def test_report_is_the_page_s_report(dataset_id):
    path = downloads.make_file(dataset_id, "report")
    assert path.name == "x-report.json"
    report = json.loads(path.read_text(encoding="utf-8"))
    assert report == json.loads(uploads.open_upload(dataset_id).report.model_dump_json())


def test_only_kept_files_can_be_downloaded(dataset_id):
    with pytest.raises(DataError):
        downloads.make_file("../../runs/x", "csv")


def test_older_downloads_make_room(dataset_id):
    made = []
    for age in range(FOLDERS_KEPT + 2):
        made.append(downloads.make_file(dataset_id, "report"))
        os.utime(made[-1].parent, (age, age))  # the clock of a file system may tick too slowly
    assert [path.exists() for path in made] == [False] * 2 + [True] * FOLDERS_KEPT


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("a.b.csv", "a-b"),
        ("<img onerror=x>.csv", "img-onerror-x"),
        ("???", "pairs"),
        ("東京", "東京"),
    ],
)
def test_name_of_a_download_is_plain(source, name):
    assert plain_name(source) == name
