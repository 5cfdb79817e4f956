"""The list of ugly files people bring, by number, and the test that proves each is answered."""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
READ = "data/test_bad_input.py::test_is_read_exactly_and_reports_how"
REFUSED = "data/test_bad_input.py::test_is_refused_with_the_place_and_the_way_out"
ASKED = (
    "data/test_bad_input.py::"
    "test_other_encodings_are_proposed_with_a_preview_and_read_once_confirmed"
)
REMARK = "data/test_bad_rows.py::test_is_read_with_a_remark"
LEFT_OUT = "data/test_bad_rows.py::test_row_is_left_out_with_its_reason"
CHOSEN = "data/test_bad_rows.py::test_broken_rows_are_left_out_and_counted_when_chosen"
ROWS = "data/test_bad_rows.py::test_"
BROWSER = "browser/test_data_tab.py::test_"

CASES = {
    "B01 UTF-8, comma, LF": [READ],
    "B02 UTF-8 with its mark": [READ],
    "B03 UTF-16 with its mark": [READ],
    "B04 UTF-16 without its mark": [REFUSED],
    "B05 GBK, Shift-JIS, Big5": [REFUSED, ASKED],
    "B06 Windows-1252": [
        *(REFUSED, ASKED),
        BROWSER + "other_encoding_other_names_twins_and_a_contradiction",
    ],
    "B07 one row that is not UTF-8": [REFUSED, CHOSEN],
    "B08 CRLF, CR, mixed": [READ],
    "B09 semicolons": [READ],
    "B10 tabs": [READ],
    "B11 sep= line": [READ],
    "B12 doubled quotes": [READ],
    "B13 backslashes before quotes": [REFUSED],
    "B14 unclosed quote": [REFUSED],
    "B15 too many or too few cells": [REFUSED, CHOSEN],
    "B16 first row wider than the header": [REFUSED, CHOSEN],
    "B17 NUL and control characters": [REFUSED, REMARK],
    "B18 missing column": [REFUSED],
    "B19 extra columns": [READ],
    "B20 case and space in names": [READ],
    "B21 synonyms": [READ],
    "B22 duplicate names": [REFUSED],
    "B23 no header": [
        *(REFUSED, ROWS + "b23_columns_can_be_chosen_where_no_header_is"),
        BROWSER + "broken_rows_and_no_header_and_formulas_to_take_away",
    ],
    "B24 nothing in it": [REFUSED],
    "B25 one row": [REMARK],
    "B26 few rows": [REMARK],
    "B27 empty prompt": [REMARK],
    "B28 empty answer": [REMARK],
    "B29 words for missing": [READ],
    "B30 identical answers": [REMARK],
    "B31 duplicate rows": [REMARK],
    "B32 contradicting pairs": [REMARK],
    "B33 one prompt on both sides": [ROWS + "b33_all_pairs_of_a_prompt_are_on_one_side"],
    "B34 prompt repeated in the answer": [REMARK],
    "B35 HH-RLHF": [READ],
    "B36 different prompts": [LEFT_OUT],
    "B37 JSON in cells": [READ],
    "B38 Python lists in cells": [READ],
    "B39 turns in the wrong order": [LEFT_OUT],
    "B40 control tokens": [REMARK],
    "B41 letter forms, zero-width characters": [REMARK],
    "B42 right to left, emoji, overrides": [READ, REMARK],
    "B43 lone surrogates": [LEFT_OUT],
    "B44 a row of 1 MB": [READ],
    "B45 32,767 characters": [REMARK],
    "B46 file over the limit": [
        ROWS + "b46_file_over_the_limit_is_refused_unread",
        "ui/web/test_security.py::test_uploads_are_limited",
    ],
    "B47 very many rows": [
        "data/test_spool.py::test_large_file_needs_far_less_memory_than_its_size"
    ],
    "B48 another kind of file named .csv": [READ, REFUSED],
    "B49 zip and gzip bombs": [REFUSED],
    "B50 web page, JSON, LFS pointer": [READ, REFUSED],
    "B51 JSON that is not strict": [READ, REFUSED, CHOSEN],
    "B52 formulas": [
        *(READ, "data/test_export.py::test_csv_is_read_back_and_holds_no_formula"),
    ],
    "B53 markup in cells": [
        *(READ, BROWSER + "conversations_in_disguise_seen_token_by_token"),
    ],
    "B54 hostile file names": [
        ROWS + "b54_file_name_is_a_label_and_nothing_else",
        "ui/data/test_uploads.py::test_b54_name_of_a_file_is_text_and_no_path",
        "ui/web/test_security.py::test_an_upload_stays_in_its_folder_whatever_its_name",
    ],
    "B55 two uploads at once, content twice": [
        ROWS + "b55_same_content_twice_is_the_same_data",
        "ui/data/test_uploads.py::test_b55_uploads_at_once_do_not_meet",
    ],
    "B56 upload aborted half way": [
        "ui/web/test_security.py::test_b56_an_upload_aborted_half_way_leaves_nothing"
    ],
    "B57 settings that are no number": [ROWS + "b57_settings_that_are_no_number_are_refused"],
    "B58 secrets and addresses": [REMARK],
    "B59 a model that is certain": [
        "orpo/objectives/test_orpo.py::test_certain_and_hopeless_answers_stay_finite"
    ],
}
TABLES = (READ, REFUSED, ASKED, REMARK, LEFT_OUT, CHOSEN)
"""Tests of many cases, each by its number."""


def source_of(test):
    """Return a test's text with its decorators."""
    file, name = test.split("::")
    text = (TESTS / file).read_text(encoding="utf-8")
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
            return "\n".join(text.splitlines()[first - 1 : node.end_lineno])
    raise AssertionError(f"{file} has no {name}")


def test_every_number_is_there_once():
    assert [case[:3] for case in CASES] == [f"B{number:02}" for number in range(1, 60)]


@pytest.mark.parametrize("case", CASES)
def test_case_has_a_test(case):
    for test in CASES[case]:
        source = source_of(test)
        if test in TABLES:
            assert f'id="{case[:3]}' in source
