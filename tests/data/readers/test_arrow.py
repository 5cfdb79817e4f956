"""Arrow files of both formats, and the folders that `save_to_disk` writes."""

import json

import pyarrow as pa
import pytest
from pyarrow import feather, ipc

from orpo_qlora.data.pairs import PreferencePair, check_file, load_preferences, preview
from orpo_qlora.data.readers import arrow
from orpo_qlora.errors import DataError

ROWS = [
    {"prompt": f"Why {i}?", "chosen": f"Because {i}.", "rejected": "No idea."} for i in range(5)
]
PAIRS = [PreferencePair(f"Why {i}?", f"Because {i}.", "No idea.", i + 1) for i in range(5)]
TABLE = pa.Table.from_pylist(ROWS)


def stream(path):
    with ipc.new_stream(path, TABLE.schema) as writer:
        for batch in TABLE.to_batches(max_chunksize=2):
            writer.write_batch(batch)


def file(path):
    with ipc.new_file(path, TABLE.schema) as writer:
        for batch in TABLE.to_batches(max_chunksize=2):
            writer.write_batch(batch)


def feathered(path):
    feather.write_feather(TABLE, path)


@pytest.mark.parametrize("write", [stream, file, feathered])
def test_arrow_files_of_every_format_are_read(tmp_path, write):
    path = tmp_path / "pairs.bin"
    write(str(path))
    dataset = load_preferences(path)
    assert list(dataset.pairs) == PAIRS
    assert dataset.report.format == "Arrow"
    assert dataset.report.columns == ("prompt", "chosen", "rejected")


def test_struct_and_list_columns_become_messages(tmp_path):
    rows = [
        {
            "prompt": "Why?",
            "chosen": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "A."}],
            "rejected": [
                {"role": "user", "content": "Why?"},
                {"role": "assistant", "content": "B"},
            ],
        }
    ]
    path = tmp_path / "pairs.arrow"
    table = pa.Table.from_pylist(rows)
    with ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table)
    assert list(load_preferences(path).pairs) == [PreferencePair("Why?", "A.", "B", 1)]


@pytest.mark.parametrize("write", [stream, file])
def test_a_cut_or_damaged_arrow_file_is_an_error(tmp_path, write):
    path = tmp_path / "pairs.arrow"
    write(str(path))
    content = path.read_bytes()
    for damaged in (content[:100], content[: len(content) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="cannot be read") as caught:
            load_preferences(path)
        assert caught.value.hint


def test_offsets_that_lead_outside_are_not_followed(tmp_path):
    path = tmp_path / "pairs.arrow"
    sound = pa.RecordBatch.from_pylist([{"prompt": "abc", "chosen": "abc", "rejected": "xyz"}])
    with ipc.new_stream(str(path), sound.schema) as writer:
        writer.write_batch(sound)
    content = path.read_bytes()
    place = content.rindex(b"\0\0\0\0\3\0\0\0")  # offsets of the last column's only text
    path.write_bytes(content[: place + 4] + (1 << 20).to_bytes(4, "little") + content[place + 8 :])
    with pytest.raises(DataError, match="Arrow file that cannot be read"):
        load_preferences(path)


def test_a_batch_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "pairs.arrow"
    feathered(str(path))
    monkeypatch.setattr(arrow, "BATCH_BYTES", 10)
    with pytest.raises(DataError, match="unpacks to at least"):
        load_preferences(path)


@pytest.fixture
def saved(tmp_path):
    from datasets import Dataset, DatasetDict

    splits = {"train": Dataset.from_list(ROWS), "test": Dataset.from_list(ROWS[:2])}
    DatasetDict(splits).save_to_disk(tmp_path / "saved", num_shards={"train": 2, "test": 1})
    return tmp_path / "saved"


def test_a_saved_folder_is_read_like_a_file(saved):
    folder = arrow.split_folder(saved, "train")
    assert len(list(folder.glob("*.arrow"))) == 2
    shares = []
    dataset = load_preferences(folder, progress=shares.append)
    assert list(dataset.pairs) == PAIRS
    assert (dataset.report.source, dataset.report.format) == ("train", "Arrow")
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert preview(folder)[1] == PAIRS
    assert check_file(folder).sha256 == dataset.report.sha256


def test_splits_of_a_saved_folder_are_named(saved):
    assert arrow.is_saved(saved)
    for split in ("", "nope"):
        with pytest.raises(DataError) as caught:
            arrow.split_folder(saved, split)
        assert "“train”, “test”" in caught.value.hint
    with pytest.raises(DataError, match="holds several splits") as caught:
        load_preferences(saved)
    assert "--split" in caught.value.hint
    with pytest.raises(DataError, match="without splits"):
        arrow.split_folder(saved / "train", "test")


def test_only_split_need_not_be_named(saved):
    about = saved / "dataset_dict.json"
    about.write_text(json.dumps({"splits": ["test"]}))
    assert arrow.split_folder(saved, "") == saved / "test"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([{"filename": "../test/data-00000-of-00001.arrow"}], "lacks its data file"),
        ([{"filename": "gone.arrow"}], "lacks its data file “gone.arrow”"),
        ([], "names no data files"),
    ],
)
def test_a_saved_folder_reads_only_its_own_files(saved, files, message):
    (saved / "train" / "state.json").write_text(json.dumps({"_data_files": files}))
    with pytest.raises(DataError, match=message):
        load_preferences(saved / "train")


def test_any_other_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="is not a file"):
        load_preferences(tmp_path)
