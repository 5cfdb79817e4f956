"""Bytes are looked at without being held; what they are not is said."""

import bz2
import io
import lzma
import pickle
import sqlite3
import tarfile

import numpy as np
import pytest

from orpo_qlora.data.files.choices import ReadChoices
from orpo_qlora.data.pairs import load_preferences
from orpo_qlora.data.readers import source
from orpo_qlora.data.readers.encodings import candidates_for
from orpo_qlora.data.readers.table import open_table
from orpo_qlora.errors import BrokenRows, DataError, NeedsEncoding

HEAD = b"prompt,chosen,rejected\n"


def tar():
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("pairs.csv"))
    return memory.getvalue()


def sqlite(tmp_path):
    path = tmp_path / "a.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table pairs (prompt)")
    connection.close()
    return path.read_bytes()


def numpy_array():
    memory = io.BytesIO()
    np.save(memory, np.zeros(3))
    return memory.getvalue()


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda _: bz2.compress(HEAD), "a bzip2 archive"),
        (lambda _: lzma.compress(HEAD), "an xz archive"),
        (lambda _: tar(), "a tar archive"),
        (sqlite, "an SQLite database"),
        (lambda _: numpy_array(), "a NumPy array"),
        (lambda _: pickle.dumps([HEAD], protocol=4), "a Python pickle"),
        (lambda _: pickle.dumps([HEAD], protocol=5), "a Python pickle"),
        (lambda _: b"\x89PNG\r\n\x1a\n" + bytes(20), "a picture"),
        (lambda _: b"\x7fELF" + bytes(20), "a program"),
        (lambda _: b"\x89HDF\r\n\x1a\n" + bytes(20), "an HDF5 file"),
        (lambda _: b"{\\rtf1 hello}", "a rich-text document"),
    ],
)
def test_other_kinds_of_files_are_named(tmp_path, make, kind):
    path = tmp_path / "pairs.csv"
    path.write_bytes(make(tmp_path))
    with pytest.raises(DataError, match=f"is {kind}, not a file of preferences") as caught:
        load_preferences(path)
    assert caught.value.hint


def test_line_without_an_end_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "LINE_CHARACTERS", 1000)
    path = tmp_path / "pairs.csv"
    path.write_bytes(HEAD + b"a,b,c\n" + b"x" * 2000 + b"\n")
    with pytest.raises(DataError, match="line 3 has more than 1,000 characters"):
        load_preferences(path)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1 << 20])
def test_place_of_a_fault_is_exact_whatever_is_read_at_once(tmp_path, monkeypatch, size):
    monkeypatch.setattr(source, "CHUNK_BYTES", size)
    path = tmp_path / "pairs.csv"
    content = "prompt,chosen,rejected\r\né,\r你,c\r\n".encode() + b"d,\xff,f\n"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_preferences(path)
    offset = content.index(b"\xff")
    assert f"line 4, byte offset {offset} (0xFF)" in caught.value.message


def test_damaged_unicode_is_no_other_encoding(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_bytes(HEAD + "é,è,ê\nä,ö,ü\n".encode() + b"d,\xff,f\n")
    with pytest.raises(BrokenRows):
        load_preferences(path)
    path.write_bytes(HEAD + "é,è,ê\nä,ö,ü\n".encode("latin-1") + "é,b,c\n".encode())
    with pytest.raises(NeedsEncoding):
        load_preferences(path)


def test_cut_multibyte_character_at_the_end_is_a_fault(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_bytes(HEAD + "a,b,é".encode()[:-1])
    with pytest.raises(DataError, match="is not UTF-8: line 2, byte offset 27"):
        load_preferences(path)


def test_wrong_choice_of_an_encoding_says_where_it_fails(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_bytes(HEAD + "é,b,c\n".encode("latin-1"))
    with pytest.raises(NeedsEncoding, match=r"cannot be read as shift_jis: line 2"):
        load_preferences(path, choices=ReadChoices(encoding="shift_jis"))


def test_odd_utf_16_is_a_fault(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_bytes((HEAD.decode() + "a,b,c\n").encode("utf-16") + b"\x00")
    with pytest.raises(NeedsEncoding, match="cannot be read as UTF-16"):
        load_preferences(path)


def test_of_one_long_line_only_the_place_in_question_is_tried(tmp_path, monkeypatch):
    samples = []

    def seen(sample):
        samples.append(sample)
        return candidates_for(sample)

    monkeypatch.setattr(source, "candidates_for", seen)
    path = tmp_path / "pairs.csv"
    line = "prompt,chosen,rejected\r" + "x" * 100_000 + "Déjà vu, encore un été.\r" * 100_000
    path.write_bytes(line.encode("cp1252"))
    with pytest.raises(NeedsEncoding) as caught:
        load_preferences(path)
    assert caught.value.candidates[0].encoding == "windows-1252"
    assert "Déjà vu" in caught.value.candidates[0].preview
    assert len(samples[0]) <= source.SAMPLE_LINES * 2 * source.SAMPLE_BYTES


@pytest.mark.parametrize("name", ["gone.csv", ".", "a\0b"])
def test_what_cannot_be_opened_is_a_data_error(tmp_path, name):
    with pytest.raises(DataError):
        load_preferences(tmp_path / name)


def test_beginning_alone_is_enough_to_know_the_columns(tmp_path, monkeypatch):
    path = tmp_path / "pairs.csv"
    path.write_bytes(HEAD + b"a,b,c\n" * 1000 + b"\xff\n")
    monkeypatch.setattr(source, "CHUNK_BYTES", 1 << 10)
    assert open_table(path, is_whole=False).columns == ("prompt", "chosen", "rejected")
    with pytest.raises(NeedsEncoding):
        open_table(path)


def test_file_that_changes_while_it_is_read_is_a_data_error(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_bytes(HEAD + b"a,b,c\n" * source.CHUNK_BYTES)
    table = open_table(path)
    # What was read into memory before the change is the file that was scanned.
    path.write_bytes(HEAD + b"a,b,\xff\n" * source.CHUNK_BYTES)
    with pytest.raises(DataError, match="changed or became unreadable after row"):
        list(table.rows())


def test_file_that_is_removed_while_it_is_read_is_read_to_its_end_but_not_again(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_bytes(HEAD + b"a,b,c\n")
    table = open_table(path)
    path.unlink()
    assert [row.cells for row in table.rows()] == [("a", "b", "c")]
    with pytest.raises(DataError, match="changed or became unreadable after row 0"):
        list(table.rows())
