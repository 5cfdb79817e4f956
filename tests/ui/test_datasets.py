import stat

import pytest

from orpo_qlora import storage
from orpo_qlora.errors import DataError
from orpo_qlora.ui import datasets


@pytest.fixture
def upload(tmp_path):
    path = tmp_path / "upload.csv"
    path.write_text("prompt,chosen,rejected\nhi,yes,no\n", encoding="utf-8")
    return path


def kept_files():
    return sorted((storage.home() / "datasets").iterdir())


def test_kept_file_outlives_the_upload(upload):
    dataset_id = datasets.keep_dataset(upload, "mine.csv")
    sha256 = storage.sha256_of(upload)
    upload.unlink()
    dataset = datasets.open_dataset(dataset_id)
    assert dataset_id == sha256
    assert dataset.report.source == "mine.csv"
    assert dataset.pairs[0].chosen == "yes"


def test_kept_file_is_private(upload):
    datasets.keep_dataset(upload, "mine.csv")
    copy = next(path for path in kept_files() if path.suffix == ".csv")
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600


def test_useless_file_is_not_kept(upload):
    upload.write_text("question,good,bad\na,b,c\n", encoding="utf-8")
    with pytest.raises(DataError):
        datasets.keep_dataset(upload, "mine.csv")
    assert kept_files() == []


@pytest.mark.parametrize("dataset_id", ["", "0" * 64, "../runs/x", "A" * 64])
def test_unknown_id_is_an_error_with_a_way_out(dataset_id):
    with pytest.raises(DataError, match="not stored here"):
        datasets.open_dataset(dataset_id)
