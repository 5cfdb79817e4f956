import html
import stat
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from orpo_qlora import storage
from orpo_qlora.data.columns import ColumnMapping
from orpo_qlora.data.files import stored
from orpo_qlora.data.files.choices import ReadChoices
from orpo_qlora.errors import DataError, DiskFull, NeedsColumns, NeedsEncoding
from orpo_qlora.ui.data import corrections, findings_view, uploads


@pytest.fixture
def upload(tmp_path):
    path = tmp_path / "upload.csv"
    path.write_text("prompt,chosen,rejected\nhi,yes,no\n", encoding="utf-8")
    return path


def kept_files():
    return sorted((storage.home() / "datasets").iterdir())


def test_kept_file_outlives_the_upload(upload):
    dataset_id = uploads.store_upload(upload, "mine.csv")
    sha256 = storage.sha256_of(upload)
    upload.unlink()
    dataset = uploads.open_upload(dataset_id)
    assert dataset_id == sha256
    assert dataset.report.source == "mine.csv"
    assert dataset.pairs[0].chosen == "yes"


def test_kept_file_is_private(upload):
    uploads.store_upload(upload, "mine.csv")
    copy = next(path for path in kept_files() if path.suffix == ".data")
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "name", ["../../x.csv", "x" * 300, "CON.csv", "a\u202ecsv.exe", "a\nb", "<img onerror=x>"]
)
def test_b54_name_of_a_file_is_text_and_no_path(upload, name):
    dataset_id = uploads.store_upload(upload, name)
    assert {path.name.partition(".")[0] for path in kept_files()} == {dataset_id}
    report = uploads.open_upload(dataset_id).report
    assert report.source == name
    shown = findings_view.summary_card(report)
    assert html.escape(name) in shown
    assert "<img" not in shown


def test_b55_uploads_at_once_do_not_meet(tmp_path):
    contents = [f"prompt,chosen,rejected\nhi,yes {i % 4},no\n" for i in range(8)]
    files = [tmp_path / f"{i}.csv" for i in range(8)]
    for file, content in zip(files, contents, strict=True):
        file.write_text(content, encoding="utf-8")
    together = threading.Barrier(8)

    def keep(file):
        together.wait()
        return uploads.store_upload(file, "mine.csv")

    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(keep, files))
    assert ids == [storage.sha256_of(file) for file in files]
    kept = [uploads.open_upload(dataset_id).pairs[0].chosen for dataset_id in ids]
    assert kept == [f"yes {i % 4}" for i in range(8)]
    assert {path.name[:64] for path in kept_files()} == set(ids)


def test_useless_file_is_not_kept(upload):
    upload.write_text("prompt,chosen,rejected\na,same,same\n", encoding="utf-8")
    with pytest.raises(DataError, match="no usable pair"):
        uploads.store_upload(upload, "mine.csv")
    assert kept_files() == []


def test_refusal_of_a_known_file_does_not_throw_it_away(upload):
    dataset_id = uploads.store_upload(upload, "mine.csv")
    swapped = ColumnMapping("rejected", "chosen", "chosen")
    uploads.choose(dataset_id, ReadChoices(mapping=swapped))
    assert uploads.store_upload(upload, "again.csv") == dataset_id
    assert uploads.is_stored(dataset_id)


def test_file_with_a_question_waits_for_the_answer(upload):
    upload.write_bytes("prompt;chosen;rejected\nça va ?;très bien;bof\n".encode("cp1252"))
    dataset_id = uploads.store_upload(upload, "mine.csv")
    with pytest.raises(NeedsEncoding) as question:
        uploads.open_upload(dataset_id)
    best = question.value.candidates[0].encoding
    uploads.choose(dataset_id, ReadChoices(encoding=best))
    assert uploads.open_upload(dataset_id).pairs[0].chosen == "très bien"


def test_columns_chosen_once_serve_the_next_file_of_the_shape(upload, tmp_path):
    upload.write_text("frage,gut,schlecht\na,b,c\n", encoding="utf-8")
    first = uploads.store_upload(upload, "first.csv")
    with pytest.raises(NeedsColumns):
        uploads.open_upload(first)
    corrections.choose_columns(first, ["frage", "gut", "schlecht", "", ""], has_header=True)
    assert uploads.open_upload(first).pairs[0].rejected == "c"

    other = tmp_path / "other.csv"
    other.write_text("frage,gut,schlecht\nx,y,z\n", encoding="utf-8")
    second = uploads.store_upload(other, "other.csv")
    assert uploads.open_upload(second).pairs[0].prompt == "x"
    other.write_text("frage,schlecht,gut\nx,y,z\n", encoding="utf-8")
    third = uploads.store_upload(other, "other.csv")
    assert uploads.open_upload(third).pairs[0].chosen == "z"
    other.write_text("frage,gut,schlechter\nx,y,z\n", encoding="utf-8")
    with pytest.raises(NeedsColumns):
        uploads.open_upload(uploads.store_upload(other, "other.csv"))

    # What was remembered is written down with the file and stays.
    corrections.choose_columns(first, ["frage", "schlecht", "gut", "", ""], has_header=True)
    assert uploads.open_upload(first).pairs[0].rejected == "b"
    assert uploads.open_upload(second).pairs[0].rejected == "z"


def test_answers_of_an_unknown_version_are_as_none(upload):
    dataset_id = uploads.store_upload(upload, "mine.csv")
    (storage.home() / "datasets" / f"{dataset_id}.choices.json").write_text('{"colour": "blue"}')
    assert uploads.choices_of(dataset_id) == ReadChoices()


ASKED = {
    "open": uploads.open_upload,
    "name": uploads.source_of,
    "choices": uploads.choices_of,
    "path": uploads.data_file,
    "choose": lambda dataset_id: uploads.choose(dataset_id, ReadChoices()),
    "answer": lambda dataset_id: corrections.apply_choice(dataset_id, "fix:duplicate"),
    "forget": lambda dataset_id: corrections.apply_choice(dataset_id, "forget"),
    "columns": lambda dataset_id: corrections.choose_columns(dataset_id, "abcde", has_header=True),
}


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
@pytest.mark.parametrize("dataset_id", ["", "0" * 64, "../runs/x", "A" * 64, "/{kept}", "{kept}\n"])
def test_unknown_id_is_an_error_with_a_way_out(upload, tmp_path, dataset_id, ask):
    kept = uploads.store_upload(upload, "mine.csv")
    sent = dataset_id.format(kept=kept)
    if sent.startswith("/"):
        sent = f"{tmp_path}{sent}"
    elif sent.endswith("\n"):
        uploads.data_file(kept).with_name(f"{sent}.data").write_text("somebody else's")
    before = kept_files(), sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match="not stored here") as caught:
        ask(sent)
    assert caught.value.hint
    assert (kept_files(), sorted(tmp_path.rglob("*"))) == before


def test_kept_files_have_a_limit_together(upload, monkeypatch):
    kept = uploads.store_upload(upload, "pairs.csv")
    monkeypatch.setattr(stored, "STORED_BYTES", upload.stat().st_size * 2 - 1)
    with pytest.raises(DiskFull, match="earlier uploads") as caught:
        uploads.store_upload(upload, "pairs.csv")
    assert "datasets" in caught.value.hint
    assert uploads.is_stored(kept)
    assert len(list(uploads.data_file(kept).parent.glob("*.data"))) == 1


def test_the_disk_is_not_filled_to_the_brim(upload, own_home, monkeypatch):
    monkeypatch.setattr(stored, "FREE_BYTES", 2**60)
    with pytest.raises(DiskFull, match="free"):
        uploads.store_upload(upload, "pairs.csv")
    assert not list((own_home / "datasets").iterdir())
