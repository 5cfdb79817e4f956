"""One JSON object around a list: read under the key that is said, or refused by name."""

import json

import pytest
from files import DIALOGUE, ROW, assistant, json_lines, loaded, records, texts_of, user

from orpo_qlora.data.pairs import preview
from orpo_qlora.data.readers import json_records
from orpo_qlora.errors import DataError, NeedsColumns

ROWS = [ROW, ("how?", "so", "not")]
TALK = {"prompt": [user("why?")], "chosen": [assistant("because")], "rejected": [assistant("no")]}


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    "around",
    [
        pytest.param({}, id="alone"),
        pytest.param({"version": 1, "licence": "MIT"}, id="facts"),
        pytest.param({"tags": ["a", "b"], "info": {"by": [1]}, "empty": []}, id="other lists"),
    ],
)
def test_the_only_list_of_objects_is_read_and_its_key_reported(tmp_path, around, indent):
    wrapped = {**around, "data": records(ROWS), "end": None}
    dataset = loaded(tmp_path, json.dumps(wrapped, indent=indent))
    assert texts_of(dataset) == ROWS
    assert dataset.report.format == "JSON object, list “data”"
    assert "list “data”" in dataset.report.to_markdown()


@pytest.mark.parametrize("size", [1, 3, 16])
def test_it_does_not_matter_how_much_is_read_at_once(tmp_path, monkeypatch, size):
    monkeypatch.setattr(json_records, "CHUNK_CHARACTERS", size)
    assert texts_of(loaded(tmp_path, json.dumps({"a": "x", "rows": records(ROWS)}))) == ROWS


def test_preview_does_not_read_to_the_end(tmp_path):
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps({"data": records(ROWS)}, indent=1) + "#" * 100)
    assert len(preview(path, "pairs.json")[1]) == len(ROWS)


@pytest.mark.parametrize(
    ("value", "kind", "fact"),
    [
        pytest.param(
            {"train": records(ROWS), "test": records(ROWS)}, DataError,
            "is one JSON object with several lists of objects: “train”, “test”.", id="two lists",
        ),
        pytest.param(
            {"dataset": {"rows": records(ROWS)}}, DataError,
            "is one JSON object with no list of objects under “dataset”.", id="deeper",
        ),
        pytest.param({"data": []}, DataError, "no list of objects under “data”", id="empty list"),
        pytest.param({}, DataError, "is one JSON object with nothing in it.", id="nothing"),
        pytest.param({"data": [{"a": 1}]}, NeedsColumns, "its keys are “a”", id="other columns"),
    ],
)  # fmt: skip
def test_anything_else_is_refused_by_name(tmp_path, value, kind, fact):
    with pytest.raises(DataError) as caught:
        loaded(tmp_path, json.dumps(value))
    assert type(caught.value) is kind
    assert fact in caught.value.message
    assert caught.value.hint


def test_a_broken_list_is_refused_at_the_broken_place(tmp_path):
    text = json.dumps({"data": records(ROWS)}, indent=1)
    with pytest.raises(DataError, match=r"row 2 \(line 8\) is not valid JSON"):
        loaded(tmp_path, text[:-20])


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([TALK], id="one conversation"),
        pytest.param([TALK, TALK], id="two conversations"),
        pytest.param([{**records([ROW])[0], "votes": [{"by": 1}]}], id="a list beside the texts"),
        pytest.param([{"chosen": DIALOGUE + "a", "rejected": DIALOGUE + "b"}], id="dialogues"),
    ],
)
def test_a_row_with_lists_of_its_own_stays_a_row(tmp_path, lines):
    dataset = loaded(tmp_path, "\n".join(map(json.dumps, lines)))
    assert dataset.report.format == "JSON lines"
    assert dataset.report.rows_read == len(lines)


def test_a_row_with_unknown_columns_needs_a_choice(tmp_path):
    with pytest.raises(NeedsColumns, match="frage"):
        loaded(tmp_path, json_lines([ROW], ("frage", "gut", "schlecht")))
