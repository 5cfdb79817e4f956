"""An account is the same after the disk, in words and in numbers."""

import pytest

from orpo_qlora.data.columns import ColumnMapping
from orpo_qlora.data.files.choices import ReadChoices
from orpo_qlora.data.pairs import load_preferences
from orpo_qlora.data.summary import DataSummary, Drop, row_list


@pytest.fixture
def report(tmp_path):
    path = tmp_path / "mine.csv"
    rows = ["why?,because,no", "why?,because,no", "why?,no,because", ",b,c", "x,y", "b<s>,c,d"]
    path.write_text("\n".join(["question,chosen,rejected", *rows]))
    choices = ReadChoices(fixes=("broken-rows", "duplicate", "special-tokens"))
    return load_preferences(path, choices=choices).report


def test_report_survives_the_disk(report):
    assert DataSummary.model_validate_json(report.model_dump_json()) == report


def test_reports_of_earlier_versions_are_read():
    old = (
        '{"source":"a.csv","sha256":"00","rows_read":3,"pairs":1,"ignored_columns":["id"],'
        '"drops":[{"reason":"identical","label":"chosen and rejected are the same","rows":[1,3]}]}'
    )
    report = DataSummary.model_validate_json(old)
    assert (report.rows_dropped, report.drops[0].count) == (2, 2)
    assert report.sentences()[1] == "2 dropped: chosen and rejected are the same (rows 1, 3)."
    assert report.remarks() == []


def test_report_names_read_dropped_guessed_and_fixed_rows(report):
    assert report.sentences() == [
        "6 rows read, 3 pairs usable.",
        "1 dropped: the row cannot be read (row 5).",
        "1 dropped: the prompt is empty (row 4).",
        "1 dropped: the pair occurs more than once in the file (row 2).",
        "Columns guessed from their names: “question” as prompt.",
    ]
    remarks = report.remarks()
    assert remarks[0].startswith("1 pair: another pair prefers the opposite (row 3).")
    assert "[contradiction]" in remarks[0]
    assert "Fixed. [special-tokens]" in remarks[1]
    assert len(remarks) == 3  # and that there are few pairs


def test_finding_is_asked_for_by_its_id(report):
    assert report.finding("contradiction").rows == (3,)
    assert report.finding("secret") is None


def test_choices_are_plain_data():
    choices = ReadChoices(
        encoding="gb18030",
        mapping=ColumnMapping("a", "b", "c", system="d"),
        has_header=False,
        fixes=("duplicate",),
    )
    assert ReadChoices.model_validate_json(choices.model_dump_json()) == choices


@pytest.mark.parametrize(
    ("rows", "count", "words"),
    [
        ((3,), 1, "row 3"),
        ((1, 2000), 2, "rows 1, 2,000"),
        ((1, 2, 3, 4, 5), 9, "rows 1, 2, 3, 4, 5, …"),
    ],
)
def test_row_numbers_in_words(rows, count, words):
    assert row_list(rows, count) == words


def test_drop_counts_more_rows_than_it_names():
    assert Drop(reason="x", label="y", rows=(1, 2), count=7).count == 7
