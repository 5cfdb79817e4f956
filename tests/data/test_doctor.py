"""Each row is usable or left out for exactly one reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orpo_qlora.data.columns import ColumnMapping
from orpo_qlora.data.doctor import REASONS, examine, fault_of
from orpo_qlora.data.read import Row, Table
from orpo_qlora.data.report import DataReport

MAPPING = ColumnMapping("prompt", "chosen", "rejected")


def table_of(*cells):
    rows = tuple(Row(row, number, number + 1) for number, row in enumerate(cells, start=1))
    return Table(("prompt", "chosen", "rejected"), rows, "p.csv", "0" * 64)


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        (("a", "b", "c"), ""),
        (("", "b", "c"), "empty-prompt"),
        ((" \n\t\u00a0", "b", "c"), "empty-prompt"),
        (("a", "", "c"), "empty-chosen"),
        (("a", "  ", "c"), "empty-chosen"),
        (("a", "b", ""), "empty-rejected"),
        (("a", "b", "\r\n"), "empty-rejected"),
        (("a", "b", "b"), "identical"),
        (("a", " b", "b\n"), "identical"),
        (("a", "b", "B"), ""),
        (("a", "a", "b"), ""),
        (("", "", ""), "empty-prompt"),
        (("a", "", ""), "empty-chosen"),
        (("a", " b ", " c "), ""),
    ],
)
def test_first_reason_that_holds_is_given(cells, reason):
    assert fault_of(*cells) == reason


def test_drops_are_in_the_order_of_reasons_and_name_their_rows():
    examination = examine(
        table_of(
            ("a", "b", "b"), ("a", "b", "c"), ("", "b", "c"), ("a", "b", ""), ("", "", ""),
            ("d", "e", "f"),
        ),
        MAPPING,
    )  # fmt: skip
    assert [row.number for row in examination.usable] == [2, 6]
    assert [(drop.reason, drop.rows) for drop in examination.drops] == [
        ("empty-prompt", (3, 5)),
        ("empty-rejected", (4,)),
        ("identical", (1,)),
    ]
    assert [drop.label for drop in examination.drops] == [
        REASONS["empty-prompt"], REASONS["empty-rejected"], REASONS["identical"],
    ]  # fmt: skip


def test_columns_are_taken_by_the_mapping_not_by_position():
    table = Table(("c", "r", "p"), (Row(("good", "", "why"), 1, 2),), "p.csv", "0" * 64)
    examination = examine(table, ColumnMapping(prompt="p", chosen="c", rejected="r"))
    assert examination.drops[0].reason == "empty-rejected"


TEXTS = st.sampled_from(["", " ", "a", "a ", "b", "\n"])


@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS), max_size=20))
def test_every_row_is_on_exactly_one_side(cells):
    examination = examine(table_of(*cells), MAPPING)
    dropped = [number for drop in examination.drops for number in drop.rows]
    usable = [row.number for row in examination.usable]
    assert sorted(usable + dropped) == list(range(1, len(cells) + 1))
    assert all(drop.rows for drop in examination.drops)


def test_sentences_tell_counts_reasons_and_rows():
    examination = examine(table_of(*[("a", "b", "")] * 7, ("", "b", "c"), ("a", "b", "c")), MAPPING)
    report = DataReport(
        source="p.csv",
        sha256="0" * 64,
        rows_read=9,
        pairs=1,
        drops=examination.drops,
        ignored_columns=("id", "a\nb"),
    )
    assert report.rows_dropped == 8
    assert report.sentences() == [
        "9 rows read, 1 pair usable.",
        "1 dropped: the prompt is empty (row 8).",
        "7 dropped: the rejected answer is empty (rows 1, 2, 3, 4, 5, …).",
        "Columns not used: “id”, “a b”.",
    ]
