"""A file becomes exact texts, or a DataError that names the place and the way out."""

import csv
import hashlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orpo_qlora.data.pairs import load_preferences
from orpo_qlora.data.readers import separated, source
from orpo_qlora.data.readers.table import open_table
from orpo_qlora.errors import DataError

HEADER = "prompt,chosen,rejected"
REAL = Path(__file__).parents[3].parent / "shared/data/alpaca_eval_davinci.csv"

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)


@dataclass
class Whole:
    """A table with its rows at hand."""

    columns: tuple
    source: str
    sha256: str
    format: str
    rows: tuple


def read_table(path, name="", choices=None):
    table = open_table(path, name, choices)
    return Whole(table.columns, table.source, table.sha256, table.format, tuple(table.rows()))


@pytest.fixture
def table_of(tmp_path):
    def read_bytes(data):
        path = tmp_path / "pairs.csv"
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return read_table(path)

    return read_bytes


@pytest.fixture
def refusal_of(table_of):
    def refusal(data):
        with pytest.raises(DataError) as caught:
            table_of(data)
        return caught.value

    return refusal


def cells_of(table):
    return [row.cells for row in table.rows]


def zip_with(*members):
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        for member in members:
            archive.writestr(member, "<x/>" * 50)
    return memory.getvalue()


@pytest.mark.parametrize(
    ("data", "cells"),
    [
        pytest.param("a,b,c\n", ("a", "b", "c"), id="plain"),
        pytest.param("a,b,c", ("a", "b", "c"), id="no newline at the end"),
        pytest.param("a,b,c\n\n\n  \n", ("a", "b", "c"), id="blank lines after it"),
        pytest.param("\n \na,b,c\n", ("a", "b", "c"), id="blank lines before it"),
        pytest.param('"a,1","b\nc","d ""e"" f"\n', ("a,1", "b\nc", 'd "e" f'), id="quoted"),
        pytest.param('"a\r\nb","c\rd",e\n', ("a\r\nb", "c\rd", "e"), id="line ends inside"),
        pytest.param("NA,None,null\n", ("NA", "None", "null"), id="words for missing"),
        pytest.param("007,true,1e5\n", ("007", "true", "1e5"), id="numbers and truth"),
        pytest.param(" a ,\tb,c \n", (" a ", "\tb", "c "), id="outer spaces"),
        pytest.param(",,\n", ("", "", ""), id="empty cells"),
        pytest.param('"","""",""\n', ("", '"', ""), id="empty quoted cells"),
        pytest.param(
            '1,"{""type"": ""Point"", ""at"": [1, 2]}",c\n',
            ("1", '{"type": "Point", "at": [1, 2]}', "c"),
            id="JSON in a cell",
        ),
        pytest.param('"a ""b""\nc","""","d\n"\n', ('a "b"\nc', '"', "d\n"), id="quotes, lines"),
        pytest.param("5\" pipe,it's,c\\n\n", ('5" pipe', "it's", "c\\n"), id="stray marks"),
        pytest.param("a\u2028b,c\x85d,e\x0cf\n", ("a\u2028b", "c\x85d", "e\x0cf"), id="U+2028"),
        pytest.param("你好,😀,é\n", ("你好", "😀", "é"), id="beyond ASCII"),
        pytest.param(
            "=cmd|' /C calc'!A0,+1,@x\n", ("=cmd|' /C calc'!A0", "+1", "@x"), id="formula"
        ),
    ],
)
def test_cells_are_kept_as_exact_text(table_of, data, cells):
    table = table_of(f"{HEADER}\n{data}")
    assert table.columns == ("prompt", "chosen", "rejected")
    assert cells_of(table) == [cells]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_any_line_end_gives_the_same_rows(table_of, end):
    table = table_of(end.join([HEADER, "a,b,c", '"d","e","f"', ""]))
    assert cells_of(table) == [("a", "b", "c"), ("d", "e", "f")]
    assert [row.line for row in table.rows] == [2, 3]


@pytest.mark.parametrize("header", [HEADER, '"prompt",chosen,rejected'])
def test_byte_order_mark_is_no_part_of_the_first_name(table_of, header):
    table = table_of(b"\xef\xbb\xbf" + f"{header}\na,b,c\n".encode())
    assert table.columns == ("prompt", "chosen", "rejected")


@pytest.mark.parametrize("separator", [";", "\t"])
def test_separator_is_recognised_from_the_header(table_of, separator):
    lines = [separator.join(HEADER.split(",")), separator.join(["a, b, c, d", "e", "f"])]
    assert cells_of(table_of("\n".join(lines))) == [("a, b, c, d", "e", "f")]


def test_separators_inside_a_quoted_header_cell_are_text(table_of):
    table = table_of('"a;b;c;d;e",prompt\n1,2\n')
    assert table.columns == ("a;b;c;d;e", "prompt")


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_separator_line_of_excel_is_obeyed_and_counted(table_of, refusal_of, mark):
    table = table_of(mark + b"sep=;\r\nprompt;chosen,rejected\r\na;b\r\n")
    assert table.columns == ("prompt", "chosen,rejected")
    assert (table.rows[0].number, table.rows[0].line) == (1, 3)
    assert "row 1 (line 3)" in str(refusal_of(mark + b"sep=;\na;b\n1;2;3\n"))
    assert table_of(mark + b"sep=,,,\n" + HEADER.encode() + b"\na,b,c\n").columns[0] == "prompt"


def test_row_and_line_numbers_part_where_cells_hold_line_breaks(table_of):
    table = table_of(f'{HEADER}\n"a\nb",c,d\n\ne,f,g\n')
    assert [(row.number, row.line) for row in table.rows] == [(1, 2), (2, 5)]


def test_source_and_hash_belong_to_the_file(tmp_path):
    path = tmp_path / "stored-under-another-name"
    data = f"{HEADER}\na,b,c\n".encode()
    path.write_bytes(data)
    table = read_table(path, "my pairs.csv")
    assert (table.source, table.sha256) == ("my pairs.csv", hashlib.sha256(data).hexdigest())
    assert read_table(path).source == path.name


@pytest.mark.parametrize(
    ("data", "facts"),
    [
        pytest.param("", ["is empty"], id="0 bytes"),
        pytest.param(" \n\r\n\t\n", ["is empty"], id="whitespace"),
        pytest.param(b"\xef\xbb\xbf", ["is empty"], id="only a mark"),
        pytest.param(HEADER, ["header but no rows"], id="header only"),
        pytest.param(f"{HEADER}\n\n\n", ["header but no rows"], id="header and blank lines"),
        pytest.param("prompt,chosen,chosen\na,b,c\n", ["“chosen” more than once"], id="twice"),
        pytest.param(f"{HEADER}\na,b\n", ["row 1 (line 2)", "2 cells", "has 3"], id="narrow"),
        pytest.param(f"{HEADER}\na,b,c,d\n", ["row 1 (line 2)", "4 cells", "has 3"], id="wide"),
        pytest.param(
            f"{HEADER}\na,b,c\nd\n\ne,f,g\nh,i,j,k\n",
            ["row 2 (line 3) has 1 cell where", "row 4 (line 6) has 4 cells where"],
            id="all wrong rows at once",
        ),
        pytest.param(
            f'{HEADER}\na,b,c\nd,"e,f\n',
            ["row 2 (line 3)", "opens on line 3 and does not close"],
            id="unclosed quote",
        ),
        pytest.param(
            f'{HEADER}\n"a\nb","c,\nd\n',
            ["row 1 (line 2)", "opens on line 3 and does not close"],
            id="unclosed quote on a later line of its row",
        ),
        pytest.param(
            f'{HEADER}\n"a\nb"x,c,d\n',
            ["row 1 (line 2)", "opens on line 2", 'the " on line 3 is not followed by a comma'],
            id="text after a closing quote",
        ),
        pytest.param(
            f'{HEADER}\n"He said \\"no, thanks\\"",b,c\n',
            ["row 1 (line 2)", 'This file writes \\" inside cells'],
            id="backslash before a quote",
        ),
        pytest.param(
            f'{HEADER}\n"He said \\", b",c,d\n', ['not as \\"'], id="backslash hides a separator"
        ),
        pytest.param(
            f'{HEADER}\na,b\n"c',
            ["row 1 (line 2) has 2 cells", "row 2 (line 3) has a quoted cell"],
            id="width and quote at once",
        ),
        pytest.param(
            '"prompt,chosen\na,b\n', ["the header (line 1)", "opens on line 1"], id="head"
        ),
        pytest.param(
            f"{HEADER}\na,b,c\nd,e\0,f\n", ["NUL", "line 3", "byte offset 32"], id="NUL byte"
        ),
        pytest.param(
            f"{HEADER}\r\na,b,c\r\nd,é,f".encode("latin-1"),
            ["not UTF-8", "line 3", "byte offset 33", "0xE9", "Save it again as UTF-8"],
            id="Latin-1",
        ),
        pytest.param(
            b"\xef\xbb\xbf" + f"{HEADER}\r".encode() + "你,b,c".encode("gbk"),
            ["not UTF-8", "line 2", "byte offset 26"],
            id="GBK behind a mark",
        ),
        pytest.param(
            b"a,b\n1,\xed\xa0\x80\n", ["not UTF-8", "line 2", "byte offset 6"], id="surrogate"
        ),
        pytest.param(HEADER.encode("utf-16-le"), ["UTF-16 without its mark"], id="UTF-16 bare"),
        pytest.param(HEADER.encode("utf-16-be"), ["UTF-16 without its mark"], id="UTF-16 BE bare"),
        pytest.param(HEADER.encode("utf-32"), ["UTF-32"], id="UTF-32"),
        pytest.param(b"\x1f\x8b\x08\0\0\0\0\0", ["gzip", "Unpack it"], id="gzip"),
        pytest.param(zip_with("pairs.csv"), ["a zip archive", "Unpack it"], id="zip"),
        pytest.param(
            zip_with("[Content_Types].xml", "xl/workbook.xml"),
            ["an Excel workbook", "export it as CSV"],
            id="xlsx",
        ),
        pytest.param(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0\0", ["old Excel workbook"], id="xls"),
        pytest.param(b"PAR1\x15\x04", ["a Parquet file that cannot be read"], id="parquet"),
        pytest.param(b"%PDF-1.7\n", ["PDF"], id="pdf"),
        pytest.param(b"\n<!DOCTYPE html><html>", ["a web page", "login"], id="HTML"),
    ],
)
def test_refusal_names_the_fact_and_the_place(refusal_of, data, facts):
    error = refusal_of(data)
    assert "pairs.csv" in error.message
    assert error.hint
    for fact in facts:
        assert fact in str(error)


def test_wrong_rows_are_counted_but_only_the_first_few_written_out(refusal_of):
    message = refusal_of(f"{HEADER}\n" + "a,b\n" * 12).message
    assert "row 5 (line 6)" in message
    assert "row 6" not in message
    assert "and 7 rows more" in message


def test_where_points_at_the_first_wrong_row(refusal_of):
    assert refusal_of(f"{HEADER}\na,b,c\nd,e\nf\n").where == "pairs.csv, row 2 (line 3)"


def test_columns_without_a_name_may_repeat(table_of):
    assert table_of(f"{HEADER},,\na,b,c,,\n").columns == ("prompt", "chosen", "rejected", "", "")


def test_cell_beyond_the_limit_of_the_csv_module_is_read(table_of):
    table = table_of(f"{HEADER}\na,{'b' * 1_000_000},c\n")
    assert len(table.rows[0].cells[1]) == 1_000_000


@pytest.mark.parametrize("cell", ["b" * 101, '"' + "b" * 101 + '"', '"x","' + "b" * 101 + '"'])
def test_too_long_a_cell_names_its_row(refusal_of, monkeypatch, cell):
    monkeypatch.setattr(separated, "CELL_CHARACTERS", 100)
    error = refusal_of(f"{HEADER}\na,b,c\nd,{cell},e\n")
    assert "row 2 (line 3)" in error.message
    assert "100 characters" in str(error)


def test_file_over_the_size_limit_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "FILE_BYTES", 1000)
    path = tmp_path / "huge.csv"
    path.write_bytes(b"x" * 1001)
    with pytest.raises(DataError, match=r"huge\.csv has 1,001 bytes; at most 1,000"):
        read_table(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.csv cannot be opened \(No such file"):
        read_table(tmp_path / "gone.csv")


def test_folder_is_no_file(tmp_path):
    with pytest.raises(DataError, match="is not a file"):
        read_table(tmp_path)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("scratch") / "pairs.csv"


@given(
    rows=st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1, max_size=8),
    separator=st.sampled_from(sorted(separated.SEPARATORS)),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    mark=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_whatever_is_written_is_read_back(scratch, rows, separator, end, mark):
    memory = io.StringIO()
    writer = csv.writer(
        memory, delimiter=separator, lineterminator=end, quoting=csv.QUOTE_ALL, strict=True
    )
    writer.writerows([HEADER.split(","), *rows])
    scratch.write_bytes(memory.getvalue().encode("utf-8-sig" if mark else "utf-8"))
    table = read_table(scratch)
    assert cells_of(table) == rows
    assert [row.number for row in table.rows] == list(range(1, len(rows) + 1))


@given(rows=st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1, max_size=8))
@settings(max_examples=100, deadline=None)
def test_cells_quoted_only_where_needed_are_read_back(scratch, rows):
    memory = io.StringIO()
    csv.writer(memory).writerows([HEADER.split(","), *rows])
    scratch.write_bytes(memory.getvalue().encode())
    assert cells_of(read_table(scratch)) == rows


SYNTAX = st.lists(
    st.sampled_from([*',;\t"\\\r\n', "sep=", "a", "é", "\0", "\ufeff", "\u2028", HEADER, "\n"]),
    max_size=40,
).map("".join)


@given(data=st.one_of(st.binary(max_size=200), SYNTAX.map(str.encode)))
@settings(max_examples=300, deadline=None)
def test_no_bytes_end_in_anything_but_data_or_a_data_error(scratch, data):
    for content in (data, f"{HEADER}\na,b,c\n".encode() + data):
        scratch.write_bytes(content)
        try:
            dataset = load_preferences(scratch)
        except DataError:
            continue
        assert dataset.report.pairs == len(dataset.pairs) > 0


@pytest.mark.skipif(not REAL.is_file(), reason=f"the real preference data is not at {REAL}")
def test_real_preferences_are_read_and_add_up():
    dataset = load_preferences(REAL)
    assert dataset.report.rows_read == 784
    assert [(drop.reason, drop.rows) for drop in dataset.report.drops] == [
        ("empty-rejected", (243, 496))
    ]
    assert len(dataset.pairs) == dataset.report.pairs == 782
    with REAL.open(encoding="utf-8", newline="") as file:
        expected = list(csv.reader(file))[1:]
    assert [expected[pair.row - 1] for pair in dataset.pairs] == [
        [pair.prompt, pair.chosen, pair.rejected] for pair in dataset.pairs
    ]
