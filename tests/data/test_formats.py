"""Every format gives the same pairs, detected by content; what is written is read back."""

import contextlib
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from files import HEADER, json_array, json_lines, parquet, records, separated
from hypothesis import given, settings
from hypothesis import strategies as st

from orpo_qlora.data.columns import ColumnMapping
from orpo_qlora.data.files.choices import ReadChoices
from orpo_qlora.data.pairs import PreferencePair, check_file, load_preferences, preview
from orpo_qlora.data.readers import json_records, source
from orpo_qlora.data.readers import parquet as parquet_module
from orpo_qlora.data.readers.table import open_table
from orpo_qlora.errors import BrokenRows, DataError

ROWS = [("why?", "because, “so”", "no;\tidea\nat all"), ("NA", "007", "true"), ("é", "你好", "😀")]
PAIRS = tuple(PreferencePair(*row, number) for number, row in enumerate(ROWS, start=1))

WAYS = {
    "CSV": lambda rows: separated(rows),
    "CSV, semicolon": lambda rows: separated(rows, separator=";"),
    "TSV": lambda rows: separated(rows, separator="\t", end="\r\n"),
    "JSON lines": lambda rows: json_lines(rows),
    "JSON array": lambda rows: json_array(rows),
    "Parquet": lambda rows: parquet(rows),
}
ENCODINGS = {"utf-8": "UTF-8", "utf-8-sig": "UTF-8", "utf-16": "UTF-16"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("formats")


def write(folder, content, encoding="utf-8", name="data"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


@pytest.mark.parametrize("name", ["data", "data.csv", "data.jsonl", "data.parquet", "data.zip"])
@pytest.mark.parametrize("way", WAYS)
def test_format_is_detected_by_content_not_by_name(tmp_path, way, name):
    dataset = load_preferences(write(tmp_path, WAYS[way](ROWS), name=name))
    assert dataset.pairs == PAIRS
    assert dataset.report.format == way


@pytest.mark.parametrize("encoding", [*ENCODINGS, "utf-16-be-mark"])
@pytest.mark.parametrize("way", [way for way in WAYS if way != "Parquet"])
def test_unicode_is_read_with_any_mark(tmp_path, way, encoding):
    content = WAYS[way](ROWS)
    if encoding == "utf-16-be-mark":
        content, encoding = b"\xfe\xff" + content.encode("utf-16-be"), "utf-16"
    dataset = load_preferences(write(tmp_path, content, encoding))
    assert dataset.pairs == PAIRS
    assert dataset.report.encoding == ENCODINGS[encoding]


@pytest.mark.parametrize("way", [way for way in WAYS if way != "Parquet"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "gb18030"])
def test_mark_is_no_part_of_the_text_in_a_confirmed_encoding(tmp_path, way, encoding):
    """A chosen codec leaves the mark in the text; the array's first bracket was not found then."""
    path = write(tmp_path, "\ufeff" + WAYS[way](ROWS), encoding)
    dataset = load_preferences(path, choices=ReadChoices(encoding=encoding))
    assert dataset.pairs == PAIRS
    assert dataset.report.columns == HEADER


@pytest.mark.parametrize("space", ["\x0b", "\u00a0", "\x1c"])
def test_what_is_no_white_space_in_json_does_not_begin_an_array(tmp_path, space):
    with pytest.raises(DataError):
        load_preferences(write(tmp_path, space + json_array(ROWS)))


def test_confirmed_encoding_is_read_and_recorded(tmp_path):
    rows = [("你好吗", "我很好", "不好")]
    choices = ReadChoices(encoding="gb18030", pairs_from_ranking="best_worst")
    dataset = load_preferences(write(tmp_path, separated(rows), "gbk"), choices=choices)
    assert dataset.pairs[0].prompt == "你好吗"
    assert (dataset.report.encoding, dataset.report.choices) == ("gb18030", choices)


ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
# No cell of separated values, and no character of XML or Excel, can be NUL.
CELLS = ANY.filter(lambda text: "\0" not in text)


@given(
    rows=st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=6),
    way=st.sampled_from(sorted(WAYS)),
    encoding=st.sampled_from(sorted(ENCODINGS)),
)
@settings(max_examples=250, deadline=None)
def test_whatever_is_written_in_any_format_is_read_back(folder, rows, way, encoding):
    table = open_table(write(folder, WAYS[way](rows), encoding))
    assert [row.cells for row in table.rows()] == rows
    assert table.columns == HEADER


@given(
    rows=st.lists(st.tuples(ANY, ANY, ANY), min_size=1, max_size=6),
    indent=st.sampled_from([None, 0, 2, "\t"]),
    size=st.integers(1, 40),
)
@settings(max_examples=250, deadline=None)
def test_json_does_not_depend_on_how_much_is_read_at_once(folder, rows, indent, size):
    path = write(folder, json_array(rows, indent=indent))
    whole = [(row.cells, row.line) for row in open_table(path).rows()]
    assert [cells for cells, _ in whole] == rows
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_records, "CHUNK_CHARACTERS", size)
        assert [(row.cells, row.line) for row in open_table(path).rows()] == whole


@given(
    content=st.one_of(st.binary(max_size=120), st.text(max_size=60).map(str.encode)),
    size=st.integers(1, 16),
)
@settings(max_examples=300, deadline=None)
def test_bytes_do_not_depend_on_how_many_are_read_at_once(folder, content, size):
    path = write(folder, b"prompt,chosen,rejected\na,b,c\n" + content)

    def outcome():
        try:
            return [pair.chosen for pair in load_preferences(path).pairs]
        except DataError as exc:
            return str(exc)

    whole = outcome()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "CHUNK_BYTES", size)
        assert outcome() == whole


STARTS = [
    b"[",
    b"{",
    b"PAR1",
    b'[{"prompt":',
    b'{"chosen": [{',
    b"\xff\xfe",
    b"\xfe\xff",
    b"PK",
    b"",
]
PIECES = st.lists(
    st.sampled_from([*'{}[]",:\n\\ ', "null", "NaN", "1e9", '"prompt"', '"chosen"', '"rejected"',
                     '[{"role":"user","content":"a"}]', "\\ud800", "\ufeff", "a,b,c\n", "\0"]),
    max_size=30,
).map("".join)  # fmt: skip


@given(
    start=st.sampled_from(STARTS),
    rest=st.one_of(st.binary(max_size=100), PIECES.map(str.encode)),
    fixes=st.sampled_from([(), ("broken-rows",)]),
    encoding=st.sampled_from(["", "utf-8", "utf-16-le", "gb18030", "windows-1252"]),
)
@settings(max_examples=500, deadline=None)
def test_no_bytes_end_in_anything_but_data_or_a_data_error(folder, start, rest, fixes, encoding):
    path = write(folder, start + rest)
    choices = ReadChoices(fixes=fixes, encoding=encoding)
    with contextlib.suppress(DataError):
        preview(path, "x", choices)
    try:
        dataset = load_preferences(path, "x", choices)
    except DataError as exc:
        error = exc
    else:
        assert dataset.report.pairs == len(dataset.pairs) > 0
        assert dataset.report.model_dump_json()
        return
    assert error.message
    assert error.hint


@given(seed=st.integers(0, 10**6), cut=st.integers(0, 4000))
@settings(max_examples=100, deadline=None)
def test_damaged_parquet_ends_in_data_or_a_data_error(folder, seed, cut):
    data = bytearray(parquet(ROWS * 20))
    chance = random.Random(seed)
    for _ in range(4):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path = write(folder, bytes(data[: max(8, len(data) - cut)]))
    with contextlib.suppress(DataError):
        load_preferences(path)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"prompt": "a",}', '“mpt": "a",}”'),
        ('{"prompt": NaN}', "holds NaN, which is not JSON"),
        ('{"prompt": -Infinity}', "holds -Infinity, which is not JSON"),
        ('{"prompt": "a", "prompt": "b"}', "names “prompt” more than once"),
        ("[1, 2]", "is a list where an object is needed"),
        ('"text"', "is the text “text” where an object is needed"),
        ("null", "is nothing where an object is needed"),
        ("12", "is the value “12” where an object is needed"),
        ("[" * 100_000, "is nested too deeply"),
        ('{"prompt": ' + "9" * 5000 + "}", "holds a number that is too long"),
        ("{'prompt': 'a'}", "is not valid JSON: expecting property name"),
        ('{"prompt": "a"', "is not valid JSON"),
    ],
)
def test_json_line_that_is_none_is_named_and_can_be_left_out(tmp_path, line, fault):
    content = json_lines(ROWS[:1]) + "\n \n" + line + "\n" + json_lines(ROWS[1:])
    path = write(tmp_path, content)
    with pytest.raises(BrokenRows) as caught:
        load_preferences(path)
    assert "row 2 (line 4)" in caught.value.message
    assert fault in caught.value.message
    assert caught.value.hint
    dataset = load_preferences(path, choices=ReadChoices(fixes=("broken-rows",)))
    assert [pair.row for pair in dataset.pairs] == [1, 3, 4]
    assert [(drop.reason, drop.rows) for drop in dataset.report.drops] == [("broken-rows", (2,))]


GOOD = json_lines([("a", "b", "c")], end="")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (f"[{GOOD}, {{]", "row 2 (line 1) is not valid JSON"),
        (f"[{GOOD},\n]", "row 2 (line 2) is not valid JSON"),
        (f"[{GOOD}\n{GOOD}]", "is not valid JSON: expecting ','"),
        (f"[{GOOD}", "is not valid JSON"),
        ("[]", "holds no JSON objects with keys"),
        ("[[]]", "holds no JSON objects with keys"),
        ('{\n  "prompt": "a"\n}', "is one JSON value spread over lines"),
        ('{"a": {"\\ud800": 1}, "\\ud800": 2}', "key whose name is damaged"),
    ],
)
def test_json_that_cannot_be_read_on_is_refused(tmp_path, content, fault):
    with pytest.raises(DataError) as caught:
        load_preferences(write(tmp_path, content))
    assert fault in caught.value.message
    assert caught.value.hint


def test_keys_may_come_in_any_order_and_be_missing(tmp_path):
    lines = [
        {"rejected": "c", "prompt": "a", "chosen": "b"},
        {"prompt": "d", "chosen": "e", "extra": [1, {"x": 2}]},
        {"prompt": "f", "chosen": "g", "rejected": None},
        {"prompt": "h", "chosen": "i", "rejected": 7},
    ]
    path = write(tmp_path, "\n".join(map(json.dumps, lines)))
    report = load_preferences(path).report
    assert report.pairs == 1
    assert [(drop.reason, drop.rows) for drop in report.drops] == [
        ("no-text", (4,)), ("empty-rejected", (2, 3)),
    ]  # fmt: skip
    assert report.columns == ("rejected", "prompt", "chosen", "extra")


def test_parquet_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    path = write(tmp_path, parquet([("a" * 1000, "b", "c")] * 500))
    assert path.stat().st_size < 5000
    monkeypatch.setattr(parquet_module, "TEXT_BYTES", 100_000)
    with pytest.raises(DataError, match=r"data unpacks to at least [\d,]+ bytes"):
        load_preferences(path)


def test_parquet_of_several_row_groups_keeps_the_order(tmp_path):
    path = tmp_path / "many.parquet"
    rows = [(f"q{i}", f"good {i}", f"bad {i}") for i in range(1000)]
    pq.write_table(pa.Table.from_pylist(records(rows)), path, row_group_size=300)
    assert [pair.prompt for pair in load_preferences(path).pairs] == [row[0] for row in rows]


def test_progress_goes_up_to_the_whole(tmp_path):
    path = write(tmp_path, separated(ROWS * 2000))
    for content in (path, write(tmp_path, parquet(ROWS * 2000), name="p")):
        seen = []
        check_file(content, progress=seen.append)
        assert seen == sorted(seen)
        assert seen[-1] == 1.0


def test_preview_shows_the_beginning_of_a_file_without_reading_on(tmp_path):
    rows = [(f"q{i}", "good", "bad") for i in range(200_000)]
    path = write(tmp_path, separated(rows) + "broken,")
    table, pairs = preview(path, count=3)
    assert [pair.prompt for pair in pairs] == ["q0", "q1", "q2"]
    assert table.columns == HEADER
    assert path.stat().st_size > 2 * source.CHUNK_BYTES


def test_without_a_header_columns_are_numbered(tmp_path):
    path = write(tmp_path, "why,because,no\nhow,so,not\n")
    choices = ReadChoices(has_header=False)
    with pytest.raises(DataError) as caught:
        load_preferences(path, choices=choices)
    assert caught.value.columns == ("Column 1", "Column 2", "Column 3")
    mapping = ColumnMapping("Column 1", "Column 2", "Column 3")
    dataset = load_preferences(path, choices=ReadChoices(has_header=False, mapping=mapping))
    assert [pair.row for pair in dataset.pairs] == [1, 2]
    assert dataset.pairs[0] == PreferencePair("why", "because", "no", 1)
