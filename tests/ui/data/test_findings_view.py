import re

import pytest

from orpo_qlora.data.files.choices import ReadChoices
from orpo_qlora.data.pairs import load_preferences
from orpo_qlora.errors import BrokenRows, DataError, NeedsColumns, NeedsEncoding
from orpo_qlora.ui.data import findings_view

HOSTILE = "<img src=x onerror=alert(1)>"
ROWS = ["hi,yes,no", "hi,yes,no", f"{HOSTILE},why,who", f"{HOSTILE},why,who", ",x,y", "a,b,b"]


@pytest.fixture
def read(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("prompt,chosen,rejected\n" + "\n".join(ROWS) + "\n", encoding="utf-8")
    return lambda **choices: load_preferences(path, "pairs.csv", ReadChoices(**choices)).report


def test_every_finding_has_count_rows_and_fix(read):
    report = read()
    drawn = findings_view.findings_list(report)
    shown = re.findall(r'data-finding="([\w-]+)"', drawn)
    assert shown == [finding.id for finding in report.findings]
    assert {"duplicate", "empty-prompt", "identical"} <= set(shown)
    duplicate = drawn.partition('data-finding="duplicate"')[2].partition("data-finding=")[0]
    assert "2 · 33 %" in duplicate
    assert "Rows 2, 4" in duplicate
    assert 'data-choice="fix:duplicate"' in duplicate
    assert "6 rows = 4 pairs kept + 1 dropped" in drawn


def test_fix_that_is_on_can_be_undone(read):
    drawn = findings_view.findings_list(read(fixes=("duplicate",)))
    assert 'data-choice="unfix:duplicate"' in drawn
    assert 'data-choice="fix:duplicate"' not in drawn
    assert "6 rows = 2 pairs kept" in drawn


def test_text_of_a_file_stays_text(read):
    drawn = findings_view.findings_list(read()) + findings_view.summary_card(read())
    assert "&lt;img" in drawn
    assert "<img" not in drawn


def test_choices_are_shown_and_can_be_undone(read):
    assert "forget" not in findings_view.summary_card(read())
    text = findings_view.summary_card(read(fixes=("duplicate", "e-mail")))
    assert "2 fixes" in text
    assert 'data-choice="forget"' in text


@pytest.mark.parametrize(
    ("name", "content", "kind", "choice"),
    [
        ("cp1252", "prompt,chosen,rejected\nça,été,né\n".encode("cp1252"), NeedsEncoding, "enc"),
        ("wide", b"prompt,chosen,rejected\na,b,c\na,b,c,d\n", BrokenRows, "fix:broken-rows"),
        ("names", b"frage,gut,schlecht\na,b,c\n", NeedsColumns, ""),
    ],
)
def test_question_comes_with_its_answers(tmp_path, name, content, kind, choice):
    path = tmp_path / f"{name}.csv"
    path.write_bytes(content)
    with pytest.raises(kind) as question:
        load_preferences(path)
    drawn = findings_view.question_card(question.value, ReadChoices())
    assert 'role="alert"' in drawn
    buttons = re.findall(r'data-choice="(.*?)"', drawn)
    assert bool(buttons) == bool(choice)
    assert all(button.startswith(choice) for button in buttons)
    if kind is NeedsEncoding:
        assert "ça,été,né" in drawn
    if kind is NeedsColumns:
        assert "untick" in drawn


def test_hostile_preview_of_an_encoding_stays_text():
    error = DataError(f"{HOSTILE} is broken.")
    drawn = findings_view.question_card(error, ReadChoices(encoding="big5"))
    assert "<img" not in drawn
    assert 'data-choice="forget"' in drawn
