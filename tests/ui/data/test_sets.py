"""Several uploads as one dataset: stored, read, corrected and found again from a run."""

import pytest
from files import json_lines, separated

from orpo_qlora.config import TrainConfig
from orpo_qlora.data.files.sources import ALL, Quota
from orpo_qlora.data.pairs import split_pairs
from orpo_qlora.errors import DataError, InputError
from orpo_qlora.runs import store
from orpo_qlora.ui.data import corrections, uploads
from orpo_qlora.ui.runs.files import dataset_of

ROWS = [(f"question {index}?", f"good {index}", f"bad {index}") for index in range(12)]
OTHERS = [(f"other {index}?", f"fine {index}", f"poor {index}") for index in range(8)]


@pytest.fixture
def paths(tmp_path):
    a, b = tmp_path / "a.csv", tmp_path / "b.jsonl"
    a.write_text(separated(ROWS))
    b.write_text(json_lines([*OTHERS, ROWS[0]]))
    return [a, b]


def quotas(dataset_id):
    return [file.quota for file in uploads.set_of(dataset_id).files]


def test_the_id_of_several_files_is_the_hash_in_their_summary(paths):
    dataset_id = uploads.store_files(paths)
    report = uploads.open_upload(dataset_id).report
    assert report.sha256 == dataset_id
    assert report.pairs == 21
    assert uploads.source_of(dataset_id) == report.source == "a.csv + b.jsonl"


def test_one_file_is_a_dataset_as_before(paths):
    assert uploads.store_files(paths[:1]) == uploads.store_upload(paths[0], "a.csv")


def test_shares_and_caps_are_stored_and_survive_the_same_upload(paths):
    dataset_id = uploads.store_files(paths)
    corrections.choose_quotas(dataset_id, [["0.5", ""], [None, "3"]])
    assert uploads.open_upload(dataset_id).report.pairs == 9
    assert uploads.store_files(paths) == dataset_id
    assert quotas(dataset_id) == [Quota(share=0.5), Quota(cap=3)]
    corrections.choose_quotas(dataset_id, [["", ""], ["", ""]])
    assert quotas(dataset_id) == [ALL, ALL]


def test_one_file_has_a_share_or_cap_and_a_seed_too(paths):
    file_id = uploads.store_files(paths[:1])
    whole = list(uploads.open_upload(file_id).pairs)
    dataset_id = corrections.choose_quotas(file_id, [["", "5"]], 7)
    assert dataset_id != file_id
    assert uploads.set_of(dataset_id).sample_seed == 7
    dataset = uploads.open_upload(dataset_id)
    assert dataset.report.pairs == 5
    assert dataset.report.sha256 == dataset_id
    assert {pair.prompt for pair in dataset.pairs} < {pair.prompt for pair in whole}
    assert corrections.choose_quotas(dataset_id, [["", "5"]], 8) == dataset_id
    assert list(uploads.open_upload(dataset_id).pairs) != list(dataset.pairs)
    assert uploads.shown_file(dataset_id, "") == file_id
    assert corrections.choose_quotas(dataset_id, [["", ""]], 8) == file_id


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["2", ""], r"“2” is no share of b\.jsonl"),
        (["", "0"], r"“0” is no cap for b\.jsonl"),
        (["0.5", "5"], r"b\.jsonl has both a share and a cap"),
    ],
)
def test_wrong_shares_and_caps_are_refused_and_change_nothing(paths, row, message):
    dataset_id = uploads.store_files(paths)
    with pytest.raises(InputError, match=message):
        corrections.choose_quotas(dataset_id, [["0.5", ""], row])
    assert quotas(dataset_id) == [ALL, ALL]


def test_files_of_the_same_content_are_refused(paths, tmp_path):
    copy = tmp_path / "copy.csv"
    copy.write_bytes(paths[0].read_bytes())
    with pytest.raises(InputError, match="same content"):
        uploads.store_files([*paths, copy])


def test_a_fix_for_all_files_also_applies_across_them(paths):
    dataset_id = uploads.store_files(paths)
    assert uploads.open_upload(dataset_id).report.finding("duplicate").file == "b.jsonl"
    corrections.apply_choice(dataset_id, "fix:duplicate")
    assert uploads.open_upload(dataset_id).report.pairs == 20
    corrections.apply_choice(dataset_id, "forget")
    assert uploads.open_upload(dataset_id).report.pairs == 21


def test_a_missing_file_is_reported(paths):
    dataset_id = uploads.store_files(paths)
    uploads.data_file(uploads.set_of(dataset_id).files[0].id).unlink()
    with pytest.raises(DataError, match="not stored"):
        uploads.open_upload(dataset_id)


def test_token_and_estimate_requests_name_all_files(paths):
    from orpo_qlora.jobs.token_counts import read_dataset

    dataset_id = uploads.store_files(paths)
    corrections.choose_quotas(dataset_id, [["0.5", ""], ["", "3"]])
    request = uploads.tokenize_request(dataset_id, TrainConfig(), ())
    assert list(read_dataset(request).pairs) == list(uploads.open_upload(dataset_id).pairs)
    corrections.choose_quotas(dataset_id, [["0.5", ""], ["", "4"]])
    assert uploads.tokenize_request(dataset_id, TrainConfig(), ()).key != request.key


def test_the_files_of_a_run_are_found_with_its_shares(paths):
    dataset_id = uploads.store_files(paths)
    corrections.choose_quotas(dataset_id, [["0.5", ""], ["", "3"]])
    dataset = uploads.open_upload(dataset_id)
    run = store.create_run(TrainConfig(), split_pairs(dataset.pairs, 0, 1), dataset.report)
    corrections.choose_quotas(dataset_id, [["", ""], ["", ""]])
    assert dataset_of(run) == dataset_id
    assert uploads.open_upload(dataset_id).report == dataset.report
