"""A file is given the advice of its own format: JSON and Parquet have no first line of names."""

import io
import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from files import loaded

from orpo_qlora.data.columns import ColumnMapping
from orpo_qlora.data.files.choices import ReadChoices
from orpo_qlora.errors import DataError, NeedsColumns
from orpo_qlora.ui.data import findings_view

CSV_ADVICE = re.compile(r"header|first line|Excel|LibreOffice|CSV|separator|quoted", re.IGNORECASE)


def parquet(rows, schema=None):
    memory = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema), memory)
    return memory.getvalue()


def json_lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def two_named(name):
    arrays = [pa.array(["x"]), pa.array(["y"])]
    memory = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(arrays, names=[name, name]), memory)
    return memory.getvalue()


WRITERS = {
    "JSON lines": json_lines,
    "JSON array": json.dumps,
    "JSON object": lambda rows: json.dumps({"data": rows}),
    "JSON columns": lambda rows: json.dumps({key: [row[key] for row in rows] for key in rows[0]}),
    "Parquet": parquet,
}
NAMELESS = [{"x": "why?", "y": "so"}, {"x": "how?", "y": "thus"}]
TWICE = [{"prompt": "why?", " Chosen": "a", "chosen ": "b", "rejected": "c"}] * 2
UNUSABLE = [{"prompt": "", "chosen": "a", "rejected": "b"}] * 2
GOOD = [{"prompt": "why?", "chosen": "a", "rejected": "b"}] * 2
GONE = ReadChoices(mapping=ColumnMapping("prompt", "good", "bad"))
TEXT = [{"prompt": "warum?", "chosen": "schön", "rejected": "groß"}] * 2
CASES = {
    "no such columns": (NAMELESS, None),
    "two columns of one name": (TWICE, None),
    "no usable pair": (UNUSABLE, None),
    "chosen columns that are gone": (GOOD, GONE),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("format_", WRITERS)
def test_no_csv_advice_for_other_formats(tmp_path, format_, case):
    rows, choices = CASES[case]
    with pytest.raises(DataError) as caught:
        loaded(tmp_path, WRITERS[format_](rows), choices, name="file")
    error = caught.value
    assert not CSV_ADVICE.search(f"{error.message} {error.hint} {error.where}"), error
    if isinstance(error, NeedsColumns):
        assert not CSV_ADVICE.search(findings_view.question_card(error, ReadChoices()))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(json_lines(TEXT).encode("latin-1"), id="JSON lines in Latin-1"),
        pytest.param(json.dumps(TEXT, ensure_ascii=False).encode("latin-1"), id="array in Latin-1"),
        pytest.param(json_lines(TEXT).encode("utf-16-le"), id="UTF-16 without its mark"),
        pytest.param(json_lines(GOOD).encode() + b'{"prompt": "\0"}\n', id="a NUL byte"),
        pytest.param(json_lines(GOOD).encode() + b"{]\n", id="broken JSON"),
        pytest.param(b"[]", id="an empty array"),
        pytest.param(b'{"prompt": "a", "chosen": 1', id="half an object"),
        pytest.param(parquet([], pa.schema({"prompt": pa.string()})), id="Parquet without rows"),
        pytest.param(two_named("prompt"), id="Parquet with one name twice"),
        pytest.param(parquet(GOOD)[:-20], id="half a Parquet file"),
    ],
)
def test_no_csv_advice_for_damaged_files_of_other_formats(tmp_path, content):
    with pytest.raises(DataError) as caught:
        loaded(tmp_path, content, name="file")
    error = caught.value
    assert not CSV_ADVICE.search(f"{error.message} {error.hint} {error.where}"), error


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("x,y\nwhy?,so\n", "in the first line"),
        ("prompt,chosen,rejected\n", "a header but no rows"),
        ("prompt,prompt\na,b\n", "the header names"),
        ("prompt;chosen;rejected\nschön;a;b\n".encode("latin-1"), "Excel"),
    ],
)
def test_a_csv_keeps_its_advice(tmp_path, content, words):
    with pytest.raises(DataError) as caught:
        loaded(tmp_path, content, name="file")
    assert words in f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize(
    "content", ['[1, 2, "four"]', '["prompt", "chosen"]\n["a", "b"]\n', '"why?"', "42"]
)
def test_a_json_array_without_objects_is_not_read_as_csv(tmp_path, content):
    with pytest.raises(DataError, match="holds no JSON objects") as caught:
        loaded(tmp_path, content, name="pairs.json")
    error = caught.value
    assert not CSV_ADVICE.search(f"{error.message} {error.hint} {error.where}"), error
